"""Fixtures that give tests a lab of worker processes: see worker_lab."""

import pytest
from worker_lab import WorkerLab


@pytest.fixture
def lab(tmp_path):
    lab = WorkerLab(tmp_path)
    yield lab
    lab.close()


@pytest.fixture
def new_lab(tmp_path):
    "For tests that compare several: a function that makes one by its name."
    labs: list[WorkerLab] = []

    def make(name: str) -> WorkerLab:
        (tmp_path / name).mkdir()
        labs.append(WorkerLab(tmp_path / name))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()
