"""What a core-only install says where a package of an extra is missing: which one, before any work, and no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import importlib.abc, sys
from streamforge.cli.options import _EXTRAS
MISSING = {name for names in _EXTRAS.values() for name in names}
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in MISSING else found(name, package)
from streamforge.cli.main import main
main()
"""
COMMANDS = {
    "demo": (("demo",), "streamforge[ml,lab]"),
    "kafka": (("topics", "--bus", "kafka://127.0.0.1:9"), "streamforge[servers]"),
    "postgresql": (("data", "status", "--store", "postgresql://u@127.0.0.1/x"), "streamforge[servers]"),
    "arangodb": (("data", "status", "--store", "arangodb://u@127.0.0.1/x"), "streamforge[servers]"),
    "minio": (("backtest", "walk-forward", "BTCUSDT", "--artifacts", "minio://127.0.0.1:9/b"), "streamforge["),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_core_install_names_the_extra(name, tmp_path):
    words, extra = COMMANDS[name]
    command = [sys.executable, "-c", WITHOUT, *words, "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(tmp_path))
    assert done.returncode == 64, done.stderr
    assert done.stderr.count("\n") == 1 and extra in done.stderr, done.stderr
