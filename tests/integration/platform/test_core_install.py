"""What a core-only install says where a package of an extra is missing: which one, before any work, and no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import importlib.abc, sys
from streamforge.core.extras import EXTRAS
MISSING = {name for names in EXTRAS.values() for name in names}
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in MISSING else found(name, package)
"""
MAIN = "from streamforge.cli.main import main\nmain()\n"
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
    command = [sys.executable, "-c", WITHOUT + MAIN, *words, "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(tmp_path))
    assert done.returncode == 64, done.stderr
    assert done.stderr.count("\n") == 1 and extra in done.stderr, done.stderr


@pytest.mark.parametrize("target", ["gnn-trainer", "ppo-trainer", "rl-agent", "backtest"])
def test_a_worker_of_research_names_the_extra(target, tmp_path):
    command = [sys.executable, "-c", WITHOUT + MAIN, "worker", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(tmp_path))
    assert done.returncode == 64, done.stderr
    assert done.stderr.startswith("streamforge: MissingExtra: ") and done.stderr.count("\n") == 1, done.stderr
    assert "pip install 'streamforge[ml" in done.stderr, done.stderr


def test_a_job_of_research_ends_for_good_and_names_the_extra(tmp_path):
    words = ("--home", str(tmp_path), "--queue-id", "wf-x", "--telemetry-producer-id", "t")
    command = [sys.executable, "-c", WITHOUT + MAIN, "worker", "gnn-trainer", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(tmp_path))
    assert done.returncode == 64 and "streamforge[ml]" in done.stdout + done.stderr, done.stdout + done.stderr


EVERY = """
import importlib, pkgutil, streamforge
ADAPTERS = ("streamforge.artifacts.", "streamforge.bus.kafka.", "streamforge.store.arango.")
CLIENTS = ("minio", "aiokafka", "arango")  # of these the opener of the URL names the extra, see COMMANDS
other = []
for module in pkgutil.walk_packages(streamforge.__path__, "streamforge."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        if module.name.startswith(ADAPTERS) and error.name in CLIENTS:
            continue
        print(module.name, type(error).__name__)
        if "pip install 'streamforge[" not in str(error):
            other.append(f"{module.name}: {error}")
assert not other, other
"""


def test_every_module_imports_or_names_the_extra(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT + EVERY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    refused = dict(line.split() for line in done.stdout.splitlines())
    assert set(refused.values()) == {"MissingExtra"}
    assert {"streamforge.graph.train", "streamforge.graph.model", "streamforge.rl.env", "streamforge.rl.train"} <= set(
        refused
    )
