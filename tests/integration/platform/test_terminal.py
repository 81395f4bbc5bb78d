"""What a terminal of 80 and of 100 columns shows: each figure whole, no line longer than the screen."""

import pytest
from terminal import lines_of, on_terminal

from streamforge.bus.base import open_bus
from streamforge.core.settings import read_places
from streamforge.workers.targets import TARGETS

SHOWN = """
import asyncio
from streamforge.cli.output import Show, show_results
from streamforge.evaluation.portfolio import Curve
from streamforge.evaluation.results import FoldResult
from streamforge.evaluation.verdict import verdict_of

times = [hour * 3_600_000 for hour in range(48)]
curve = lambda g: Curve(open_time=times, equity=[1 + g * (hour % 7 + hour) for hour in range(48)], traded=2.0, exposure=0.5)
fold = FoldResult(fold=0, dataset_sha256="5a", seed=7, symbols=["BTCUSDT"], rows={}, periods_per_year=8760.0, gnn={}, ppo={},
    strategies={"agent": curve(0.001), "buy_and_hold": curve(-0.002), "cash": curve(0.0)},
    by_seed={"agent": [curve(0.0), curve(0.002)]})

async def main():
    show = Show()
    async with show.stage("load", "Load, store and enrich") as report:
        report(1, 2, "epoch 17, auc_val 0.512, steps 114,688, steps_per_second 6,512")
        await asyncio.sleep(0.3)
        report(1, 1, "49,252 candles of 4 markets, 1,234 missing in 17 holes, PEPEUSDT from 2023-05-05T16:00:00")
    show_results(show, verdict_of([fold]), "streamforge demo --seed 7")

asyncio.run(main())
"""
FIGURES = ("49,252", "1,234", "17", "2023-05-05T16:00:00")  # of the stage; the table's are asked of the library


@pytest.mark.parametrize("columns", [80, 100])
def test_a_terminal_shows_every_figure_of_the_demo_whole(columns: int) -> None:
    lines = lines_of(on_terminal(SHOWN, columns))
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines)
    words = " ".join(lines).split()
    assert set(FIGURES) <= set(words[words.index("✓") :])
    assert {"auc_val", "0.512,", "114,688,", "6,512"} <= set(words)  # the bar, too, breaks between words
    from streamforge.evaluation.portfolio import Curve
    from streamforge.evaluation.results import FoldResult
    from streamforge.evaluation.verdict import verdict_of
    from streamforge.viz.report import result_rows

    made = {"Curve": Curve, "FoldResult": FoldResult}
    exec(SHOWN.partition("async def")[0].partition("verdict_of\n")[2], made)  # the same fold
    verdict = verdict_of([made["fold"]])
    assert verdict.shows in " ".join(words)
    assert " ".join(words).endswith("repeat streamforge demo --seed 7")
    for row in result_rows(verdict):
        assert set(" ".join(row).split()) <= set(words), row
    assert {"Sharpe", "deflated", "trainings", "drawdown", "turnover", "exposure"} <= set(words)


def test_a_narrower_terminal_names_the_columns_that_had_to_go() -> None:
    lines = lines_of(on_terminal(SHOWN, 50))
    table = lines[next(n for n, line in enumerate(lines) if line.split()[:1] == ["strategy"]) :]
    note = next(n for n, line in enumerate(table) if line.startswith("no room here for"))
    assert max(map(len, table[:note])) <= 50
    assert "Sharpe" in " ".join(table[:note]).split()
    assert "exposure" not in " ".join(table[:note]).split()
    assert "exposure" in table[note]


MAIN = "import sys; sys.argv[0] = 'streamforge'; from streamforge.cli.main import main; main()"
HELP = """
import sys
from streamforge.cli.worker import print_target_help, print_targets
from streamforge.workers.targets import TARGETS
print_targets()
for name in TARGETS:
    print_target_help(name)
"""


@pytest.mark.parametrize("columns", [80, 100])
def test_help_of_every_worker_folds_at_the_edge(columns: int) -> None:
    lines = lines_of(on_terminal(HELP, columns))
    assert max(map(len, lines)) <= columns
    words = {word for line in lines for word in line.split()}
    assert {*TARGETS, "BATCH_ROWS."} <= words
    assert {f"--{name.lower().replace('_', '-')}" for target in TARGETS.values() for name in target.rows()} <= words


@pytest.mark.parametrize("columns", [80, 100])
async def test_topics_fold_at_the_edge(columns: int, tmp_path) -> None:
    long = f"wf-{'x' * 90}-api_candles_1h-20210501-a1b2c3-data"
    async with open_bus(read_places({"STREAMFORGE_HOME": str(tmp_path)}).bus_url) as bus:
        for topic in ("trades", long):
            await bus.create_topic(topic)
    for words in (("topics",), ("topics", "list")):
        lines = lines_of(on_terminal(MAIN, columns, *words, "--home", str(tmp_path)))
        assert max(map(len, lines)) <= columns
        assert lines[0].split() == ["topic", "partitions", "records"]
        assert "trades" in " ".join(lines).split()
        assert "".join(line.split()[0] for line in lines[1:] if line and line.split()[0] != "trades") == long
