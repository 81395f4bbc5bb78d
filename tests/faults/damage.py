"""One file of a working lab is damaged, in each of many ways: what is undamaged is read, what is lost is said.

A *subject* is a part of the lab: it makes files with known contents, and visits them in a process of its own after
one of them was damaged. A *way* damages one file and tells which records its bytes held. `bus_damage.py` has the files
of the embedded bus, `lab_damage.py` those of the store, its documents, artifacts and results.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drill import Contents, Lab, Outcome, drill


@dataclass
class Harm:
    "What a way has done."

    file: str  # what a check has to name, below the lab's home
    lost: set[tuple] = field(default_factory=set)  # keys of the records that the damaged bytes held
    quiet: bool = False  # nothing that is derived or foreign has to be told of by readers; a check names it
    stops: str = ""  # a topic that cannot be used before the repair, by an error that names the file
    after_repair: bool = False  # what is undamaged is read again only after the repair
    says: str = ""  # of the store and artifacts: what an error, the terminal or the log has to say


@dataclass(frozen=True)
class Subject:
    "A part of the lab whose files are damaged."

    name: str
    make: Callable[[Path], Awaitable[Any]]  # fills a home; returns what its ways need to know
    expected: Callable[[Any], Contents]  # all that is in it
    visitor: Path  # a program: `python VISITOR HOME` prints {contents, group, after, findings, left, errors}; or
    restores: bool = False  # `python VISITOR HOME PRISTINE FILE`, which puts FILE back, prints {contents, words, after}


@dataclass(frozen=True)
class Way:
    "One way to damage one file."

    subject: Subject
    name: str
    apply: Callable[[Path, Any], Harm]


WAYS: list[Way] = []


def way(subject: Subject, name: str):
    "Register a way."

    def register(apply: Callable[[Path, Any], Harm]):
        WAYS.append(Way(subject, name, apply))
        return apply

    return register


async def visit(subject: Subject, home: Path, *more: str) -> tuple[dict[str, Any] | None, list[dict], str]:
    "Run a subject's visitor: what it prints, the lines of its log, and anything else on its standard error."
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(subject.visitor),
        str(home),
        *more,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    lines, rest = [], []
    for line in err.decode().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            rest.append(line)
    return (json.loads(out) if process.returncode == 0 else None), lines, "\n".join(rest)


def keyed(rows: dict[str, list[list]]) -> Contents:
    "Contents as a visitor prints them: key ..., value."
    return {name: {tuple(row[:-1]): row[-1] for row in its_rows} for name, its_rows in rows.items()}


def judge(outcome: Outcome, one: Way, harm: Harm, whole: Contents, seen: dict, lines: list[dict]) -> None:
    "Compare what a visitor has seen with what the damaged bytes have left."
    expected = {name: {k: v for k, v in rows.items() if k not in harm.lost} for name, rows in whole.items()}
    if harm.stops:
        new = {key for key, value in whole[harm.stops].items() if value == "new"}  # could not be written
        expected[harm.stops] = {key: value for key, value in expected[harm.stops].items() if key not in new}
    what = f"{one.subject.name}: {one.name}"
    read = dict.fromkeys(expected, {}) | keyed(seen["after" if harm.after_repair else "contents"])
    if harm.stops:  # some partitions can be written
        read[harm.stops] = {key: value for key, value in read[harm.stops].items() if value != "new"}
    outcome.judge(expected, read, what)
    if not harm.after_repair:
        after = keyed(seen["after"])
        outcome.check(after == keyed(seen["contents"]), f"{what}: a repair changed what is read")
    if harm.stops:
        stopped = [error for error in seen["errors"] if error.startswith(f"{harm.stops}: BusError")]
        outcome.check(len(stopped) == len(seen["errors"]) == 1 and harm.file in stopped[0], f"{what}: {seen['errors']}")
        seen["errors"].clear()
    group = {tuple(key) for key in seen["group"]}
    missed = {key for rows in expected.values() for key in rows if key[2] >= seen["committed"]} - group
    outcome.check(harm.after_repair or not missed, f"{what}: the group missed {sorted(missed)[:3]}")
    outcome.check(not seen["errors"], f"{what}: {seen['errors'][:2]}")
    outcome.check(seen["offsets_grow"], f"{what}: offsets were used twice")
    told = any(line.get("level") in ("warning", "error") for line in lines)
    outcome.check(told or harm.quiet or harm.stops, f"{what}: not a word in the log")
    named = any(finding["path"].startswith(harm.file) for finding in seen["findings"])
    outcome.check(named, f"{what}: the check does not name {harm.file}: {seen['findings'][:3]}")
    outcome.check(not any(one["damaged"] for one in seen["left"]), f"{what}: damaged after the repair {seen['left']}")


def judge_restored(outcome: Outcome, one: Way, harm: Harm, whole: Contents, seen: dict, lines: list[dict]) -> None:
    "The same where nothing repairs itself: what was damaged is said, and whole again once its file is put back."
    what = f"{one.subject.name}: {one.name}"
    expected = {name: {k: v for k, v in rows.items() if k not in harm.lost} for name, rows in whole.items()}
    outcome.judge(expected, dict.fromkeys(expected, {}) | keyed(seen["contents"]), what)
    outcome.check(keyed(seen["after"]) == whole, f"{what}: not whole with its file put back")
    told = [*seen["words"], *(str(line) for line in lines if line.get("level") in ("warning", "error"))]
    outcome.check(harm.quiet or any(harm.says in text for text in told), f"{what}: no word of {harm.says}: {told[:3]}")
    outcome.check(bool(harm.says) or harm.quiet, f"{what}: this way does not tell what has to be said")


@contextmanager
def open_folder() -> Iterator[Path]:
    "A folder that other users may enter, as the lab's need not be: a visitor is another user where this one is root."
    with tempfile.TemporaryDirectory(prefix="damage") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@drill("one file of the lab damaged", on=("embedded",), runs=1_000, short=12)
async def damage(lab: Lab, runs: int) -> None:
    "Every way once, or `runs` of them evenly; a raw traceback, silence or a record too many or too few is a fault."
    chosen = WAYS if runs >= len(WAYS) else [WAYS[n * len(WAYS) // runs] for n in range(runs)]
    made: dict[str, Any] = {}
    with open_folder() as folder:
        for number, one in enumerate(chosen):
            subject, pristine = one.subject, folder / one.subject.name
            if subject.name not in made:
                made[subject.name] = await subject.make(pristine)
            shutil.copytree(pristine, home := folder / f"{subject.name}-{number}", copy_function=shutil.copy2)
            harm = one.apply(home, made[subject.name])
            seen, lines, rest = await visit(subject, home, *((str(pristine), harm.file) if subject.restores else ()))
            if seen is None or rest:
                lab.outcome.runs += 1
                lab.outcome.notes.append(f"{subject.name}: {one.name}: {rest[-2000:] or 'the visitor failed'}")
                continue
            compare = judge_restored if subject.restores else judge
            compare(lab.outcome, one, harm, subject.expected(made[subject.name]), seen, lines)
            shutil.rmtree(home)
