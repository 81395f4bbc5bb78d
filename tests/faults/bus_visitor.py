"""Visits an embedded bus that may be damaged: checks it, reads and writes it as workers do, repairs it, reads it again.

python tests/faults/bus_visitor.py HOME
"""

import asyncio
import json
import os
import sys
import time
from contextlib import aclosing
from pathlib import Path

import msgspec

from streamforge.bus.base import Bus, Message, open_bus
from streamforge.bus.embedded import bus as embedded  # noqa: F401  (loaded before the user changes)
from streamforge.bus.embedded.check import check_bus, repair_bus
from streamforge.core.errors import StreamForgeError
from streamforge.core.logs import setup

DEADLINE = 20
NOBODY = 65_534
GROUP, COMMITTED = "readers", 40  # the group that has committed this offset in every partition


KEYS = ("MARKET6", "MARKET0")  # of partitions 0 and 1, of two


def row(record) -> list:
    return [record.topic, record.partition, record.offset, record.value.decode()]


async def read_all(bus: Bus, topic: str) -> list[list]:
    "Read a topic to its end."
    ends, rows, position = await bus.end_offsets(topic), [], await bus.begin_offsets(topic)
    async with aclosing(bus.tail(topic, max_wait=0.05)) as batches, asyncio.timeout(DEADLINE):
        while any(position[partition] < end for partition, end in ends.items()):
            batch = await anext(batches)
            rows += map(row, batch.records)
            position |= {partition: offset for (_, partition), offset in batch.end_offsets.items()}
    doubled = len(rows) - len({tuple(row[:3]) for row in rows})
    assert not doubled, f"{doubled} records were delivered twice"
    return rows


async def read_group(bus: Bus, topic: str, write) -> tuple[list[list], list[tuple[int, int]]]:
    "Read a topic to its end in the group, write, and read what was written."
    seen: list[list] = []
    async with bus.subscribe([topic], GROUP) as consumer:
        for step in range(2):
            ends, deadline = await bus.end_offsets(topic), time.monotonic() + DEADLINE
            while any(consumer.positions().get((topic, n), 0) < end for n, end in ends.items()):
                assert time.monotonic() < deadline, f"the group stands at {consumer.positions()}, the ends are {ends}"
                batch = await consumer.poll(max_wait=0.05)
                seen += [row(record)[:3] for record in batch.records]
                await consumer.commit(batch.end_offsets)
            if step == 0:
                places = await write()
    return seen, places


async def visit(home: Path) -> dict:
    findings, errors, contents, group, grow = (await check_bus(home)).findings, [], {}, [], True
    async with open_bus(f"embedded://{home}?segment_bytes=3000") as bus:
        for topic in await bus.topics():
            try:
                ends = await bus.end_offsets(topic)

                async def write(topic: str = topic, keys: tuple[str, ...] = KEYS[: len(ends)]) -> list[tuple[int, int]]:
                    return await bus.publish(topic, [Message(b"new", key=key) for key in keys])

                await read_all(bus, topic)
                seen, places = await read_group(bus, topic, write)
                group += seen
                grow = grow and all(offset >= ends[partition] for partition, offset in places)
                contents[topic] = await read_all(bus, topic)
            except (StreamForgeError, AssertionError, TimeoutError) as error:
                errors.append(f"{topic}: {type(error).__name__}: {error}")
    await repair_bus(home)
    left, after = (await check_bus(home)).findings, {}
    async with open_bus(f"embedded://{home}") as bus:
        for topic in await bus.topics():
            after[topic] = await read_all(bus, topic)
    return {
        "contents": contents,
        "group": group,
        "committed": COMMITTED,
        "after": after,
        "offsets_grow": grow,
        "errors": errors,
        "findings": msgspec.to_builtins(findings),
        "left": msgspec.to_builtins(left),
    }


if __name__ == "__main__":
    setup("visitor", stream=sys.stderr)
    if os.geteuid() == 0:  # rights mean nothing to root, so that it visits as another user
        for path in (Path(sys.argv[1]), *Path(sys.argv[1]).rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.setuid(NOBODY)
    print(json.dumps(asyncio.run(visit(Path(sys.argv[1])))))
