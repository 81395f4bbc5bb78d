"""Switch guards of the library off, one at a time, and see whether a test fails.

make mutants ARGS="--sample 60 --seed 1"

The coverage map (which test reaches which line) is recorded by the suite's own run and used while the library stays
as it is. Per guard, the tests that reach its body are run, those of its own notebook first, at most 60 seconds,
until one fails; a time-out counts as found, and is listed. Exit 0: in the sample at most 5 % survive (one guard of a
sample below twenty), none in bus, store, trading and manager, and each survivor has its reason in survivors.toml.
A sample is drawn by the guards' names: an edit elsewhere does not change it, and a larger one holds the smaller.
"""

import argparse
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutation import LIBRARY, ROOT, Guard, all_guards

MAP = ROOT / ".cache" / "coverage" / "map"
STAMP = MAP.with_suffix(".library")  # the hash of the library that the map was recorded with
RECORD = ["--cov=streamforge", "--cov-context=test", "--cov-report="]
REASONS = Path(__file__).with_name("survivors.toml")
SECONDS = 60  # per guard
TESTS = 25  # per guard at most, of those that reach it
SHARE = 0.05  # of the sample may survive
NEVER = {"bus", "store", "trading", "manager"}  # packages in which no guard may survive


def hash_of_library() -> str:
    "What the coverage map was recorded with."
    total = hashlib.sha256()
    for path in sorted(LIBRARY.rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def record_map() -> None:
    "Run the suite once with coverage; its time is not counted."
    print("recording which test reaches which line (the whole suite runs once) ...", flush=True)
    MAP.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *RECORD, "nbs", "tests"]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"COVERAGE_FILE": str(MAP)}, check=False, stdout=subprocess.DEVNULL
    )
    if ended.returncode > 1 or not MAP.exists():
        raise SystemExit("the coverage map could not be recorded: does `make test` run?")
    STAMP.write_text(hash_of_library())


def map_is_current() -> bool:
    "Is there a map of the library as it is?"
    return MAP.exists() and STAMP.exists() and STAMP.read_text() == hash_of_library()


def own_notebook(path: str) -> str:
    "The notebook that a generated module names in its head."
    head = re.search(r"File to edit: (\S+\.ipynb)", (ROOT / path).read_text())
    return os.path.relpath((ROOT / path).parent / head[1], ROOT) if head else ""


def tests_of(guard: Guard, contexts: dict[int, list[str]]) -> list[str]:
    "The tests that reach the body of a guard: sections of its notebook, other notebooks, contracts, the rest."
    reaching = {name.rpartition("|")[0] for line in guard.body for name in contexts.get(line, []) if "|" in name}
    notebook = own_notebook(guard.path)

    def order(test: str) -> tuple[int, str]:
        places = [notebook + "::", "nbs/", "tests/contracts/", "tests/integration/"]
        return next((at for at, place in enumerate(places) if test.startswith(place)), len(places)), test

    return sorted(reaching, key=order)[:TESTS]


def sample_of(guards: list[Guard], size: int, seed: int) -> list[Guard]:
    "Guards whose names, hashed with the seed, come first; in order of path and line."
    drawn = sorted(guards, key=lambda guard: hashlib.sha256(f"{seed}:{guard.key}".encode()).digest())[:size]
    return sorted(drawn, key=lambda guard: (guard.path, guard.line))


def outcome_of(guard: Guard, tests: list[str]) -> tuple[str, str]:
    "`found`, `time-out`, `survived` or `unreached`, and what found it."
    if not tests:
        return "unreached", ""
    env = os.environ | {
        "STREAMFORGE_MUTANT": f"{guard.path}:{guard.line}:{guard.column}",
        "CI": os.environ.get("CI", ""),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:cov",
        "-p",
        "no:xdist",
        *tests,
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return "time-out", ""
    if process.returncode == 0:
        return "survived", ""
    if process.returncode == 4:
        raise SystemExit(
            f"the coverage map names tests that are not there; remove {MAP} and run again\n{printed[-2000:]}"
        )
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", printed, re.M)
    return "found", failed[1] if failed else "at import"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=200, help="guards to switch off (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--only", default="", help="guards whose path or function contains this text")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument(
        "--stamp", action="store_true", help="only note that the map was recorded with the library as it is"
    )
    arguments = parser.parse_args()
    if arguments.stamp:
        STAMP.write_text(hash_of_library())
        return 0
    if not map_is_current():
        record_map()
    from coverage import CoverageData

    data = CoverageData(basename=str(MAP))
    data.read()
    guards = [guard for guard in all_guards() if arguments.only in f"{guard.path}:{guard.function}"]
    sample = sample_of(guards, arguments.sample, arguments.seed)
    contexts = {path: data.contexts_by_lineno(str(ROOT / path)) for path in {guard.path for guard in sample}}
    reasons = tomllib.loads(REASONS.read_text()) if REASONS.exists() else {}
    began, report = time.monotonic(), []

    def judge(guard: Guard) -> dict[str, str]:
        result, by = outcome_of(guard, tests_of(guard, contexts[guard.path]))
        row = {"guard": str(guard), "result": result, "by": by, "reason": ""}
        if result in ("survived", "unreached"):
            row["reason"] = reasons.get(guard.key, "")
            print(f"{result}: {guard}", flush=True)
        return row

    with ThreadPoolExecutor(arguments.processes) as pool:
        report = list(pool.map(judge, sample))
    counts = Counter(row["result"] for row in report)
    survivors = [row for row in report if row["result"] in ("survived", "unreached")]
    forbidden = [row for row in survivors if row["guard"].split("/")[1] in NEVER]
    silent = [row for row in survivors if not row["reason"]]
    seconds = round(time.monotonic() - began)
    summary = {"guards": len(guards), "sample": len(report), "seed": arguments.seed, "seconds": seconds, **counts}
    if arguments.json:
        arguments.json.write_text(json.dumps({**summary, "report": report}, indent=1))
    for row in report:
        if row["result"] == "time-out":
            print(f"time-out: {row['guard']}")
    print(
        f"\n{len(guards)} guards, {len(report)} switched off in {seconds} s: "
        + ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    )
    for row in survivors:
        print(
            f"  {row['result']}: {row['guard']}\n      "
            f"{row['reason'] or 'NO REASON GIVEN: prove it, or say why not in survivors.toml'}"
        )
    good = len(survivors) <= math.ceil(SHARE * len(report)) and not forbidden and not silent
    print(
        f"{len(survivors)} of {len(report)} survive: "
        f"{'as it should be' if good else 'too many, in bus, store, trading or manager, or without a reason'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
