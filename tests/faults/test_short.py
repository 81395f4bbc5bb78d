"""The drills in their short form: a few runs each, on the embedded pair and on real servers where they are."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from catalogue import DRILLS  # noqa: E402
from drill import NEEDED, perform  # noqa: E402
from servers import need  # noqa: E402

CASES = [(drill, on) for drill in DRILLS if drill.short for on in drill.on]


@pytest.mark.slow
@pytest.mark.parametrize(("drill", "on"), CASES, ids=[f"{drill.fault}-{on}" for drill, on in CASES])
async def test_drill(drill, on, tmp_path):
    for server in (*NEEDED.get(on, ()), *drill.needs):
        need(server)
    outcome = await perform(drill, on, tmp_path, drill.short)
    assert outcome.runs and outcome.exact == outcome.runs, "\n".join(outcome.notes)
