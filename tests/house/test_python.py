"""`make demo` and `make test` take any Python from 3.11 to 3.14: which one `deploy/dev/python.sh` chooses."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(tmp_path):
    "A machine with the Pythons of one's choice: gives a function (name -> version, or '' for a shim that leads nowhere)."
    places = tmp_path / "bin"
    places.mkdir()
    for tool in ("bash", "sort"):
        (places / tool).symlink_to(shutil.which(tool))

    def ask(pythons: dict[str, str], *words: str, **env: str) -> tuple[int, list[str], str]:
        for name, version in pythons.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            supported = version in ("3.11", "3.12", "3.13", "3.14")
            path.write_text(
                f"#!/bin/bash\n[ -n '{version}' ] || exit 127\n"
                f"[ \"$1\" = --version ] && echo 'Python {version}.0' || echo '{version if supported else ''}'\n"
            )
            path.chmod(0o755)
        script = ["/bin/bash", str(ROOT / "deploy" / "dev" / "python.sh"), *words]
        done = subprocess.run(
            script, env={"PATH": str(places), "HOME": str(tmp_path)} | env, capture_output=True, text=True, timeout=60
        )
        lines = [
            line.replace(f"{tmp_path}/bin/", "").replace(f"{tmp_path}/", "~/") for line in done.stdout.splitlines()
        ]
        return done.returncode, lines, done.stderr

    return ask


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_first_python_is_taken_if_it_will_do(machine, version):
    assert machine({"python3": version, "python3.12": "3.12"})[:2] == (0, ["python3"])


@pytest.mark.parametrize("first", ["3.10", "3.9", "3.15", ""])
def test_another_one_is_looked_for(machine, first):
    assert machine({"python3": first, "python3.12": "3.12", "python3.13": ""})[:2] == (0, ["python3.12"])


def test_other_homes_of_pythons_are_known(machine):
    pyenv = "../.pyenv/versions/3.13.0/bin/python3"
    assert machine({"python3": "3.10", pyenv: "3.13", "python3.11": "3.11"})[1] == [
        "~/.pyenv/versions/3.13.0/bin/python3"
    ]


def test_without_one_it_says_what_to_do(machine):
    code, lines, errors = machine({"python3": "3.10"})
    assert (code, lines) == (64, [])
    assert "needs Python 3.11, 3.12, 3.13 or 3.14" in errors and "'python3' is Python 3.10.0" in errors
    assert "apt-get install python3 python3-venv" in errors and "make demo PYTHON=" in errors
    code, _, errors = machine({"python3": ""})
    assert code == 64 and "'python3' is missing" in errors


def test_a_python_that_was_named_is_not_replaced(machine):
    code, lines, errors = machine({"python3": "3.12", "python3.10": "3.10"}, PYTHON="python3.10")
    assert (code, lines) == (64, []) and "as PYTHON says" in errors


def test_all_are_listed_newest_first(machine):
    pythons = {"python3": "3.11", "python3.11": "3.11", "python3.12": "3.12", "python3.14": "3.14", "python3.13": ""}
    code, lines, _ = machine(pythons, "--all")
    assert code == 0 and [line.split()[0] for line in lines] == ["3.14", "3.12", "3.11"]


def test_this_python_is_one_of_them():
    script = ["/bin/bash", str(ROOT / "deploy" / "dev" / "python.sh")]
    done = subprocess.run(
        script, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == sys.executable, done.stderr


def test_every_place_names_the_same_versions():
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.py").read_text())
    assert classifiers == ["3.11", "3.12", "3.13", "3.14"]
    assert "<3.15" in (ROOT / "setup.py").read_text()
    assert "(3, 11) <= v <= (3, 14)" in (ROOT / "deploy" / "dev" / "python.sh").read_text()
    assert "from 3.11 to 3.14" in (ROOT / "README.md").read_text()
