"""The demo with few steps, permuted markets and trainings: what its tests share."""

import json

import msgspec

from streamforge.cli.demo.run import DemoOptions, run_demo
from streamforge.runs.folds import WalkForward


class FewTrainings(DemoOptions, frozen=True, kw_only=True):
    "The demo with as many trainings and permuted markets as a test needs; how many there are usually: `DemoOptions`."

    seeds: int
    draws: int

    def walk_forward(self) -> WalkForward:
        return msgspec.structs.replace(super().walk_forward(), seeds=self.seeds, draws=self.draws)


async def small_demo(files, home, *, seeds, draws):
    "Its figures."
    home.mkdir(exist_ok=True)
    await run_demo(
        FewTrainings(
            source=str(files),
            seed=3,
            json=str(home / "out.json"),
            home=str(home),
            folds=2,
            ppo_steps=8_192,
            fold_steps=8_192,
            seeds=seeds,
            draws=draws,
        )
    )
    return json.loads((home / "out.json").read_bytes())
