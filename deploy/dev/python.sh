#!/usr/bin/env bash
# Print a Python from 3.11 to 3.14: $PYTHON or python3 if it is one, else the newest other that this machine has.
# `python.sh --all` prints every one that it has, newest first. Asked by running it: a name on the PATH may be a shim that leads nowhere.
set -euo pipefail
version() { "$1" -c 'import sys, venv, ensurepip; v = sys.version_info[:2]; print("%d.%d" % v if (3, 11) <= v <= (3, 14) and sys.implementation.name == "cpython" else "")' 2>/dev/null || true; }
others() { # every other place where a Python may be, newest version first
  local minor
  for minor in 14 13 12 11; do
    command -v "python3.$minor" || true
    compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor.*/bin/python3" | sort -Vr || true
    compgen -G "$HOME/.local/share/uv/python/cpython-3.$minor.*/bin/python3" | sort -Vr || true
  done
}
if [ "${1:-}" = --all ]; then
  seen=" "
  while read -r python; do
    found=$(version "$python")
    if [ -n "$found" ] && [[ "$seen" != *" $found "* ]]; then
      seen+="$found "
      echo "$found $python"
    fi
  done < <(others; command -v "${PYTHON:-python3}" || true) | sort -Vr
  exit 0
fi
FIRST=${PYTHON:-python3}
[ -n "$(version "$FIRST")" ] && echo "$FIRST" && exit 0
if [ -z "${PYTHON:-}" ]; then # a PYTHON that was named is not replaced in silence
  while read -r python; do
    [ -n "$(version "$python")" ] && echo "$python" && exit 0
  done < <(others)
fi
{
  echo "StreamForge needs Python 3.11, 3.12, 3.13 or 3.14 with venv, and '$FIRST' is $("$FIRST" --version 2>/dev/null || echo missing, or leads nowhere)${PYTHON:+, as PYTHON says}."
  echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv; Fedora: dnf install python3; anywhere: uv python install 3.13), or name one: make demo PYTHON=/path/to/python3.13"
} >&2
exit 64
