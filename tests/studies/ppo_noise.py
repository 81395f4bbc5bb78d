"""PPO agents that were trained on noise: how often does the permutation test see timing in them?

python tests/studies/ppo_noise.py [--agents 100] [--draws 99] [--workers 2] [--json FILE]

Each agent has a planted random walk of its own (`evaluation.planted`): 8 markets, 1,500 hours to learn from with the
default settings of PPO at 65,536 steps, and 500 hours of test. A p-value of at most 5 % should come in 5 % of cases.
"""

import argparse
import json
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from streamforge.evaluation.permutation import null_distribution, timing_verdict
from streamforge.evaluation.planted.noise import random_walk
from streamforge.evaluation.planted.rates import binomial_rate
from streamforge.rl.markets import agent_config, agent_markets
from streamforge.rl.policy import Policy
from streamforge.rl.replay import replay_panel
from streamforge.rl.train import PpoConfig, train_ppo
from streamforge.trading.costs import Costs

MARKETS, LEARN, TEST, WINDOW = 8, 1_500, 500, 16


def judged(seed: int, draws: int) -> tuple[float | None, float | None, str]:
    "p-values of end value and Sharpe ratio of one agent, or the reason why there are none."
    panel, costs = random_walk(MARKETS, LEARN + TEST, 70_000 + seed).panel(), Costs()
    rows = panel.rows(0, LEARN)
    described = agent_config(rows, window=WINDOW, costs=costs)
    trained = train_ppo(agent_markets(described, rows), described, PpoConfig(steps=65_536), seed=seed)
    policy = Policy.load(trained.files)
    null = null_distribution(
        lambda own, start: replay_panel(policy, own, start), panel, LEARN, costs, draws=draws, seed=seed, past=WINDOW
    )
    verdict = timing_verdict([null])
    return verdict.p_end_value, verdict.p_sharpe, verdict.reason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--draws", type=int, default=99)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with ProcessPoolExecutor(given.workers) as pool:
        found = []
        for own in pool.map(judged, range(given.agents), [given.draws] * given.agents):
            found.append(own)
            print(json.dumps(own), file=sys.stderr, flush=True)
    tested = [own for own in found if not own[2]]
    table = {"agents": len(found), "tested": len(tested), "reasons": dict(Counter(own[2] for own in found if own[2]))}
    for place, name in enumerate(("end_value", "sharpe")):
        for level in (0.05, 0.01):
            count = sum(own[place] <= level + 1e-12 for own in tested)
            rate = binomial_rate(count, len(tested))
            table[f"{name}_{level}"] = {"count": count, "rate": rate.value, "low": rate.low, "high": rate.high}
    print(json.dumps(table, indent=1))
    if given.json:
        given.json.write_text(json.dumps({"table": table, "p": found}, indent=1))


if __name__ == "__main__":
    main()
