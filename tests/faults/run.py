"""`make faults`: every drill, whole, as a table and as JSON.

python tests/faults/run.py [--json FILE] [--only TEXT] [--on embedded] [--runs N] [--short]
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from catalogue import DRILLS  # noqa: E402
from drill import NEEDED, perform  # noqa: E402
from servers import url_of  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="", help="write the outcomes to this file")
    parser.add_argument("--only", default="", help="drills whose fault contains this text")
    parser.add_argument("--on", default="", help="embedded or kafka+postgresql; both by default")
    parser.add_argument("--runs", type=int, default=0, help="runs of each drill")
    parser.add_argument("--short", action="store_true", help="the few runs of the test suite")
    options, outcomes = parser.parse_args(), []
    for drill in DRILLS:
        for on in drill.on:
            if (
                options.only.lower() not in drill.fault.lower()
                or (options.on and options.on != on)
                or (options.short and not drill.short)
            ):
                continue
            if missing := [server for server in (*NEEDED.get(on, ()), *drill.needs) if not url_of(server)]:
                print(
                    f"skipped     {drill.fault}, on {on}: no {' '.join(missing)}; `make servers` starts them",
                    flush=True,
                )
                continue
            with tempfile.TemporaryDirectory(prefix="drill") as folder:
                outcome = asyncio.run(
                    perform(drill, on, Path(folder), options.runs or (drill.short if options.short else drill.runs))
                )
            outcomes.append(outcome)
            verdict = "ok  " if outcome.exact == outcome.runs and outcome.runs else "BAD "
            print(
                f"{verdict} {outcome.exact:>3} of {outcome.runs:<3} {outcome.fault}, on {on}: lost "
                f"{outcome.lost}, wrong {outcome.wrong}, doubled {outcome.duplicated} ({outcome.seconds:.0f} "
                "s)",
                flush=True,
            )
            for note in outcome.notes:
                print(f"       {note}", flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps([outcome.summary() for outcome in outcomes], indent=1) + "\n")
    return int(any(outcome.exact < outcome.runs or not outcome.runs for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
