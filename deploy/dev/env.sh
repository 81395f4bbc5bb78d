#!/usr/bin/env bash
# Make or renew .venv from requirements.lock: with uv where it can be had, else with pip. Idempotent: nothing to do takes a blink.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3} LOCK=requirements.lock
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
  echo "StreamForge needs Python 3.11 or 3.12, and '$PYTHON' is $("$PYTHON" --version 2>&1 || echo missing). Say which one: make demo PYTHON=python3.12" >&2
  exit 64
fi
STAMP=$(cat "$LOCK" settings.ini setup.py | sha256sum | cut -c1-16)-$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ -x .venv/bin/streamforge ] && [ "$(cat .venv/.stamp 2>/dev/null)" = "$STAMP" ] && exit 0
echo "Making the environment in .venv (about 6 GB with torch; once per change of requirements.lock) ..." >&2
if [ -x .venv/bin/python ] && [ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != "${STAMP##*-}" ]; then rm -rf .venv; fi
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
if .venv/bin/pip install -q --disable-pip-version-check uv 2>/dev/null; then
  export UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV="$PWD/.venv"
  .venv/bin/uv pip install -q --compile-bytecode --require-hashes -r "$LOCK"
  .venv/bin/uv pip install -q --no-deps -e .
else
  .venv/bin/pip install -q --require-hashes -r "$LOCK"
  .venv/bin/pip install -q --no-deps -e .
fi
echo "$STAMP" > .venv/.stamp
