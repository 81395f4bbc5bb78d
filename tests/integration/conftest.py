"""Houses for worker processes: see worker_lab."""

import pytest
from worker_lab import House


@pytest.fixture
def house(tmp_path):
    lab = House(tmp_path)
    yield lab
    lab.close()


@pytest.fixture
def new_house(tmp_path):
    "For tests that compare several: a function that makes one by its name."
    made: list[House] = []

    def make(name: str) -> House:
        (tmp_path / name).mkdir()
        made.append(House(tmp_path / name))
        return made[-1]

    yield make
    for lab in made:
        lab.close()
