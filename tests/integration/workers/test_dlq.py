"""Dead letters from end to end: set aside by a real connector, listed once each, sent back, and never doubled."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from worker_lab import WorkerLab, bad_values, sample_candles

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

from streamforge.bus.base import Message, Record, TopicSpec  # noqa: E402
from streamforge.core.errors import BusError, UnknownTopic  # noqa: E402
from streamforge.messages.records import encode  # noqa: E402
from streamforge.store.base import open_store  # noqa: E402
from streamforge.workers.runtime.context import dead_letter  # noqa: E402
from streamforge.workers.runtime.dead_letters import (
    list_dead_letters,
    read_whole_topic,
    replay_dead_letters,
    replay_topic,
    replayed_attempts,
    select_dead_letters,
)  # noqa: E402


@pytest.fixture(params=["embedded", "kafka"])
async def home(request, tmp_path):
    "Workers over the embedded bus, or over a real broker with a store of their own."
    lab = WorkerLab(tmp_path, {"STREAMFORGE_BUS_URL": need("kafka")} if request.param == "kafka" else None)
    yield lab
    lab.close()
    await lab.forget()


async def command(lab, *words) -> tuple[int, str, str]:
    "Exit code, output and errors of `streamforge dlq ...`."
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamforge.cli.main", "dlq", *words),
        env=os.environ | lab.env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, out.decode(), err.decode()


async def waiting(bus, topic, **narrow):
    return select_dead_letters(await list_dead_letters(bus, topic), await replayed_attempts(bus, topic), **narrow)


async def set_aside(lab, values, first=0):
    "Dead letters as a worker writes them, from offsets counted from `first`."
    async with lab.bus() as bus:
        for topic in (lab.data, f"{lab.data}-dlq"):
            await bus.create_topic(topic, TopicSpec(partitions=2 if topic == lab.data else 1))
        records = [
            Record(lab.data, 0, first + n, value, "BTCUSDT", (("traceparent", b"00-ab"),))
            for n, value in enumerate(values)
        ]
        await bus.publish(
            f"{lab.data}-dlq", [dead_letter(record, ValueError("too new"), "decode") for record in records]
        )


async def test_the_life_of_a_dead_letter(home):
    "Nonsense dies again under its first name; what had only come too early is stored, once."
    rows = sample_candles(("BTCUSDT",), "2021-05-01:2021-05-05")
    bad, early = list(bad_values(encode(rows[0])).values()), [encode(row) for row in rows[-3:]]
    await home.fill([("BTCUSDT", value) for value in [*map(encode, rows[:-3]), *bad]])
    await set_aside(home, early, first=1000)
    connect = {"TYPE": "api_candles_1h", "UPSTREAM": "loader-producer__a1b2c3"}
    assert await home.run("arango-connector", **connect) == 0

    code, out, err = await command(home, "list", home.data, "--json")
    assert code == 0, err
    kinds = {kind["error"]: kind for kind in json.loads(out)}
    assert (kinds["BadRecord"]["waiting"], kinds["ValueError"]["waiting"]) == (len(bad), 3)
    sources = sorted(kinds["BadRecord"]["sources"])
    code, out, err = await command(home, "replay", home.data, "--dry-run")
    assert code == 0 and out.count("would send") == len(bad) + 3
    code, out, err = await command(home, "replay", home.data, "--error", "ValueError", "--offset", "0:1001")
    assert code == 0 and err.strip() == "1 sent", err
    code, out, err = await command(home, "replay", home.data)
    assert code == 0 and err.strip() == f"{len(bad) + 2} sent; left: 1 sent back before", err
    code, out, err = await command(home, "replay", f"{home.data}-dlq")
    assert code == 0 and err.startswith("0 sent"), err
    came = await home.records(home.data)
    assert len(came) == len(rows) - 3 + len(bad) + len(bad) + 3
    back = [record for record in came if dict(record.headers).get("sf.replayed", b"").endswith(b":1001")]
    assert [(record.value, record.key, dict(record.headers)["traceparent"]) for record in back] == [
        (early[1], "BTCUSDT", b"00-ab")
    ]

    again = {**connect, "EVENTS_FROM": f"0:{await home.length(home.events_topic)}"}  # events from here on
    await home.fill([])
    assert await home.run("arango-connector", **again) == 0
    async with open_store(home.places.store_url) as store:
        stored = await store.read("candles_1h", where={"symbol": "BTCUSDT"})
    assert stored["open_time"].to_pylist() == [row.open_time for row in rows] and stored["close"].to_pylist() == [
        row.close for row in rows
    ]
    async with home.bus() as bus:
        dead_letters = await list_dead_letters(bus, home.data)
        chosen, left = await waiting(bus, home.data)
        assert (
            sorted(dead.source for dead in dead_letters if dead.error == "BadRecord") == sources
            and len(dead_letters) == len(bad) + 3
        )
        assert (
            {dead.attempts for dead in chosen} == {2}
            and sorted(dead.record.value for dead in chosen) == sorted(bad)
            and left["replayed"] == 3
        )
        assert await waiting(bus, home.data, max_attempts=2) == (
            [],
            {"replayed": 3, "attempts": len(bad), "foreign": 0},
        )


async def test_a_replay_that_is_cut_off_loses_nothing_and_repeats_little(home):
    "Publish first, then remember: what was sent without being remembered is sent again, and only that."
    await set_aside(home, [b"%d" % n for n in range(25)])
    async with home.bus() as bus:
        publish, notes = bus.publish, 0

        async def publish_until_cut(topic, messages):
            nonlocal notes
            notes += topic == replay_topic(home.data)
            if notes == 2:
                raise BusError("expected an answer, found none")
            return await publish(topic, messages)

        bus.publish = publish_until_cut
        with pytest.raises(BusError):
            await replay_dead_letters(bus, home.data, (await waiting(bus, home.data))[0], batch=10)
        bus.publish = publish
        rest, left = await waiting(bus, home.data)
        assert [dead.record.value for dead in rest] == [b"%d" % n for n in range(10, 25)] and left["replayed"] == 10
        await replay_dead_letters(bus, home.data, rest)
        assert (await waiting(bus, home.data))[0] == []
        came = await read_whole_topic(bus, home.data)
        sent = [record.value for record in came]
        assert sorted(sent, key=int) == sorted([b"%d" % n for n in [*range(25), *range(10, 20)]], key=int)
        assert len({dict(record.headers)["sf.replayed"] for record in came}) == 25
        await bus.publish(f"{home.data}-dlq", [dead_letter(record, ValueError("again"), "decode") for record in came])
        assert [dead.attempts for dead in (await waiting(bus, home.data))[0]] == [2] * 25


async def test_topics_that_are_empty_foreign_gone_or_made_anew(home):
    async with home.bus() as bus:
        with pytest.raises(UnknownTopic):
            await list_dead_letters(bus, home.data)
        await bus.create_topic(home.data, TopicSpec(partitions=2))
        assert await waiting(bus, home.data) == ([], {"replayed": 0, "attempts": 0, "foreign": 0})
    await set_aside(home, [b"one", b"two"])
    async with home.bus() as bus:
        await bus.publish(f"{home.data}-dlq", [Message(b"hello")])
        chosen, left = await waiting(bus, home.data)
        assert len(chosen) == 2 and left["foreign"] == 1
        assert await replay_dead_letters(bus, home.data, chosen) == 2
        for topic in (home.data, f"{home.data}-dlq"):
            await bus.delete_topic(topic)
    await set_aside(home, [b"other", b"two"])  # offsets count from 0 again
    async with home.bus() as bus:
        assert [dead.record.value for dead in (await waiting(bus, home.data))[0]] == [
            b"other"
        ]  # the same bytes at the same offset are the same dead letter
        await bus.delete_topic(home.data)
        with pytest.raises(UnknownTopic):
            await replay_dead_letters(bus, home.data, (await waiting(bus, home.data))[0])
        assert len((await waiting(bus, home.data))[0]) == 1  # nothing sent, nothing remembered
