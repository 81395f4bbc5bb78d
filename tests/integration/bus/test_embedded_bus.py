"""What the embedded bus promises beyond the port: small segments, quick takeover, a full disk, many processes on
few files."""

import asyncio
import random
import signal
import subprocess
import sys
import time

import pytest

from streamforge.bus.base import Message, TopicSpec, open_bus
from streamforge.core.errors import NotOwner

HEAD = (
    "import asyncio, sys\nfrom streamforge.bus.base import *\nfrom streamforge.core.logs import setup\n"
    "setup('test', stream=sys.stderr)\n"
)
DEADLINE = 60


def program(source: str, *args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", f"{HEAD}{source}\nasyncio.run(main(*sys.argv[1:]))", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def line(process: subprocess.Popen) -> str:
    async with asyncio.timeout(DEADLINE):
        return (await asyncio.to_thread(process.stdout.readline)).strip()


def end(*processes: subprocess.Popen) -> None:
    for process in processes:
        process.kill()
        process.communicate()


SIT = """
async def main(url, topic):
    async with open_bus(url) as bus, bus.subscribe([topic], "g") as consumer:
        await consumer.poll(max_wait=0)
        print(len(consumer.assignment()), flush=True)
        await asyncio.sleep(600)
"""


async def test_a_killed_consumer_is_noticed_at_once(tmp_path):
    "Long before its session of a minute is over: the kernel says so."
    url = f"embedded://{tmp_path}/bus?session_timeout=60"
    async with open_bus(url) as bus:
        await bus.create_topic("t", TopicSpec(partitions=4))
        async with bus.subscribe(["t"], "g") as survivor:
            other = program(SIT, url, "t")
            try:
                while len(survivor.assignment()) != 2:
                    await survivor.poll(max_wait=0.05)
                assert await line(other)
                other.kill()
                began = time.monotonic()
                while len(survivor.assignment()) != 4:
                    assert time.monotonic() - began < DEADLINE
                    await survivor.poll(max_wait=0.1)
                assert time.monotonic() - began < 30
            finally:
                end(other)


async def test_a_busy_consumer_hands_over_late_but_commits_first(tmp_path):
    "A newcomer waits for the owner's batch; an owner that never comes back loses it after its session."
    async with open_bus(f"embedded://{tmp_path}/bus?session_timeout=0.6") as bus:
        await bus.create_topic("t", TopicSpec(partitions=2))
        await bus.publish("t", [Message(b"%d" % i, key=f"k{i}") for i in range(100)])
        async with bus.subscribe(["t"], "g") as busy:
            batch = await busy.poll()
            async with bus.subscribe(["t"], "g") as newcomer:
                assert not (await newcomer.poll(max_wait=0.05)).records
                await busy.commit(batch.end_offsets)
                await busy.poll(max_wait=0)
                assert not (await newcomer.poll(max_wait=0.2)).records and len(newcomer.assignment()) == 1
                await bus.publish("t", [Message(b"%d" % i, key=f"k{i}") for i in range(100)])
                batch = await busy.poll()
                async with bus.subscribe(["t"], "other"):
                    pass
            async with bus.subscribe(["t"], "g") as late:
                began = time.monotonic()
                while not late.assignment():  # no consumer polls for `busy`
                    assert time.monotonic() - began < DEADLINE
                    await late.poll(max_wait=0.1)
                assert time.monotonic() - began > 0.4
                with pytest.raises(NotOwner):
                    await busy.commit({("t", 0): 1, ("t", 1): 1})


WRITE = """
async def main(url, topic, name):
    async with open_bus(url) as bus:
        i = 0
        while True:
            padding = b"x" * (i * 7 % 900)
            await bus.publish(topic, [Message(f"{name} {i + k} ".encode() + padding, key=name) for k in range(3)])
            i += 3
            print(i, flush=True)
            await asyncio.sleep(0.002)
"""


@pytest.mark.slow
async def test_a_storm_of_killed_writers_on_tiny_segments(tmp_path):
    """Twelve writers are killed in the middle, over hundreds of segment changes; every acknowledged record is
    there, in order, unharmed."""
    url, rng, acknowledged = f"embedded://{tmp_path}/bus?segment_bytes=5000", random.Random(7), {}
    async with open_bus(url) as bus:
        await bus.create_topic("t")
        running = {f"w{i}": program(WRITE, url, "t", f"w{i}") for i in range(2)}
        view, seen = bus.tail("t", max_wait=0.05), []
        try:
            for n in range(2, 13):
                victim = rng.choice(sorted(running))
                for _ in range(rng.randrange(5, 60)):
                    acknowledged[victim] = int(await line(running[victim]))
                    seen += (await anext(view)).records
                running[victim].send_signal(signal.SIGKILL)
                rest = (await asyncio.to_thread(running.pop(victim).communicate))[0]
                acknowledged[victim] = max([acknowledged[victim], *(int(part) for part in rest.split("\n")[:-1])])
                if n < 12:
                    running[f"w{n}"] = program(WRITE, url, "t", f"w{n}")
        finally:
            end(*running.values())
        for name, process in running.items():
            acknowledged.setdefault(name, 0)
            assert process.returncode == -signal.SIGKILL
        total = (await bus.end_offsets("t"))[0]
        while len(seen) < total:
            seen += (await anext(view)).records
        await view.aclose()
    assert [record.offset for record in seen] == list(range(total))
    numbers: dict[str, list[int]] = {}
    for record in seen:
        name, number, rest = record.value.decode().split(" ", 2)
        assert name == record.key and set(rest) <= {"x"} and len(rest) == int(number) // 3 * 3 * 7 % 900
        numbers.setdefault(name, []).append(int(number))
    assert all(number == list(range(len(number))) for number in numbers.values()), "no hole, no repeat, no disorder"
    assert all(len(numbers.get(name, [])) >= count for name, count in acknowledged.items())
    assert len(list((tmp_path / "bus/topics/t/0").glob("*.log"))) > 20
