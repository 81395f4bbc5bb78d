#!/usr/bin/env bash
# Make or renew .venv from requirements.lock: with uv where it can be had, else with pip. Idempotent: nothing to do takes a blink.
set -euo pipefail
cd "$(dirname "$0")/../.."
LOCK=requirements.lock
PYTHON=$(bash deploy/dev/python.sh)  # it says what to do if there is none
VENV=${VENV:-.venv}                  # another folder for another Python: .ci/run
STAMP=$(cat "$LOCK" settings.ini setup.py | sha256sum | cut -c1-16)-$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ -x "$VENV"/bin/streamforge ] && [ "$(cat "$VENV/.stamp" 2>/dev/null)" = "$STAMP" ] && exit 0
echo "Making the environment in $VENV (about 6 GB with torch; once per change of requirements.lock) ..." >&2
if [ -x "$VENV"/bin/python ] && [ "$("$VENV"/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != "${STAMP##*-}" ]; then rm -rf "$VENV"; fi
[ -x "$VENV"/bin/python ] || "$PYTHON" -m venv "$VENV"
if "$VENV"/bin/pip install -q --disable-pip-version-check uv 2>/dev/null; then
  export UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV="$(cd "$VENV" && pwd)"
  "$VENV"/bin/uv pip install -q --compile-bytecode --require-hashes -r "$LOCK"
  "$VENV"/bin/uv pip install -q --no-deps -e .
else
  "$VENV"/bin/pip install -q --require-hashes -r "$LOCK"
  "$VENV"/bin/pip install -q --no-deps -e .
fi
echo "$STAMP" > "$VENV"/.stamp
