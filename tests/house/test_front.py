"""What a newcomer reads first is true: the README's example runs as a script, its links lead somewhere, the map
names every package."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "nbs" / "docs").rglob("*.md")),
]
README = PAGES[0].read_text(encoding="utf-8")


def test_the_example_runs_as_a_script(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    script = tmp_path / "example.py"
    script.write_text(example)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "total_return" in done.stdout and "sharpe" in done.stdout


def test_examples_of_the_guides_can_be_run():
    "The first one is run; one that needs a running platform is compiled, and its imports are made."
    page = ROOT / "nbs" / "docs" / "how_to" / "2_import.md"
    first, second = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    exec(compile(first, str(page), "exec"), {})
    compile(second, str(page), "exec")
    exec("\n".join(line for line in second.splitlines() if line.startswith(("import ", "from "))), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    generated = {ROOT / "nbs/docs/manual/errors.md", ROOT / "nbs/targets/index.md"}  # by `make docs`
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path = (page.parent / link.partition("#")[0]).resolve()
        if "://" not in link and not path.exists() and path not in generated:
            wrong.append(link)
    assert not wrong, wrong


def test_the_path_of_a_candle_is_there_and_never_returns():
    steps = re.findall(r"^\d+\. `([\w.]+)`: (.+)$", README, re.M)
    packages = [package for package, _ in steps]
    assert len(packages) > 5 and len(set(packages)) == len(packages)
    for package, text in steps:
        for name in re.findall(r"`(\w[\w.]*)`", text):
            module, _, path = f"streamforge.{package}.{name}".rpartition(".")
            modules = [module, module.rpartition(".")[0], f"streamforge.{package}.base"]
            assert any(found_in(place, name.split(".")) for place in modules), f"{package} has no {name}"


def found_in(module: str, names: list[str]) -> bool:
    "Does a module have this name, or this class this method?"
    try:
        thing = importlib.import_module(module)
    except ImportError:
        return False
    for name in names if module.endswith(".base") else names[1:] if module.endswith(f".{names[0]}") else names:
        thing = getattr(thing, name, None)
    return thing is not None


def test_the_map_names_every_package():
    packages = {path.name for path in (ROOT / "streamforge").iterdir() if (path / "__init__.py").exists()}
    named = set(re.findall(r"^\| `(?:\d\d_)?(\w+)`", README, re.M)) | set(re.findall(r"`\d\d_(\w+)`", README))
    assert packages <= named, f"the map of the README lacks {packages - named}"
