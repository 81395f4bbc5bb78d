"""`streamforge debug` and a dummy by hand, as a person uses them: real processes, on the embedded bus and on Kafka."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from servers import need  # noqa: E402

from streamforge.bus.base import open_bus  # noqa: E402
from streamforge.cli.debug.probe import living, start_here, start_through, stop_workers  # noqa: E402
from streamforge.cli.services import open_lab  # noqa: E402
from streamforge.core.settings import read_places  # noqa: E402
from streamforge.messages.control import decode_event  # noqa: E402


class Terminal:
    "Commands in a corner of one bus."

    def __init__(self, home: Path, bus: str):
        corner = f"t{secrets.token_hex(4)}"
        self.control, self.events, self.queue = f"{corner}-control", f"{corner}-events", f"wf-{corner}"
        places = {"STREAMFORGE_HOME": str(home), "TELEMETRY_INTERVAL": "0.1"} | (
            {"STREAMFORGE_BUS_URL": bus} if bus else {}
        )
        self.env = places | {"QUEUE_CONTROL_TOPIC": self.control, "QUEUE_EVENTS_TOPIC": self.events}
        self.bus_url, self.processes = read_places(self.env).bus_url, list[asyncio.subprocess.Process]()

    async def begin(self, *words: str, **env: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "streamforge.cli.main",
            *words,
            env=os.environ | self.env | env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    async def run(self, *words: str, **env: str) -> tuple[int, str, str]:
        "Exit code, output and errors."
        process = await self.begin(*words, **env)
        out, err = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def statuses(self, queue: str = "") -> list[tuple[str, str]]:
        "(producer, status) of a workflow's events."
        async with open_bus(self.bus_url) as bus:
            if self.events not in await bus.topics():
                return []
            events = []
            async with contextlib.aclosing(bus.tail(self.events, max_wait=0.1)) as batches:
                while sum((await bus.end_offsets(self.events)).values()) > len(events):
                    events += [decode_event(record.value) for record in (await anext(batches)).records]
        return [(event.producer, event.status) for event in events if event.queue_id == (queue or self.queue)]

    async def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
        async with open_bus(self.bus_url) as bus:
            for topic in (self.control, self.events):
                if topic in await bus.topics():
                    await bus.delete_topic(topic)


@pytest.fixture(params=["embedded", "kafka"])
async def terminal(request, tmp_path):
    terminal = Terminal(tmp_path, need("kafka") if request.param == "kafka" else "")
    yield terminal
    await terminal.close()


async def test_start_ping_stop(terminal):
    code, out, err = await terminal.run("debug", "start", "--json", "--exit-after", "120")
    assert (code, err) == (0, "")
    started = json.loads(out)
    assert (
        started["worker"].startswith("dummy-service__")
        and 0 < started["ms"] < 60_000
        and os.kill(started["pid"], 0) is None
    )
    try:
        code, out, err = await terminal.run("debug", "ping", started["queue_id"], "--count", "5", "--json")
        pinged = json.loads(out)
        assert (code, err, pinged["all_answered"]) == (0, "", True) and [
            worker["worker"] for worker in pinged["workers"]
        ] == [started["worker"]]
        one = pinged["workers"][0]
        assert (
            len(one["rtt_ms"]) == one["sent"] == 5 and 0 < one["p50_ms"] <= one["p95_ms"] == max(one["rtt_ms"]) < 5_000
        )
        code, out, _ = await terminal.run("debug", "ping", started["queue_id"], "--count", "2")
        assert code == 0 and out.count(f"of {started['worker']} after") == 2 and "p95 ms" in out and "2 of 2" in out
        code, out, err = await terminal.run("debug", "stop", started["queue_id"], "--json")
        assert (code, err) == (0, "") and json.loads(out)["workers"][0].items() >= {
            "worker": started["worker"],
            "status": "interrupted",
        }.items()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(started["pid"], signal.SIGKILL)
    for words in (("ping", "--timeout", "0.3", "--count", "1"), ("stop",)):  # no worker is left
        code, out, err = await terminal.run("debug", words[0], started["queue_id"], *words[1:])
        assert code == 75 and "no live worker" in err and out == ""


async def test_one_of_two_is_silent(terminal):
    workers = [
        await terminal.begin(
            "worker", "dummy-service", "--noop", QUEUE_ID=terminal.queue, TELEMETRY_PRODUCER_ID=f"dummy-service__{name}"
        )
        for name in ("aaaaaa", "bbbbbb")
    ]
    deadline = time.monotonic() + 90
    while len([1 for _, status in await terminal.statuses() if status == "started"]) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    workers[1].send_signal(signal.SIGSTOP)
    try:
        code, out, _ = await terminal.run("debug", "ping", terminal.queue, "--count", "2", "--timeout", "1", "--json")
        assert code == 75 and [len(worker["rtt_ms"]) for worker in json.loads(out)["workers"]] == [2, 0]
        code, out, _ = await terminal.run("debug", "stop", terminal.queue, "--timeout", "3", "--json")
        assert code == 75 and [worker["status"] for worker in json.loads(out)["workers"]] == ["interrupted", None]
    finally:
        workers[1].send_signal(signal.SIGCONT)
    assert [await asyncio.wait_for(worker.wait(), 90) for worker in workers] == [0, 0]


async def test_options_of_a_dummy_are_its_variables(terminal):
    endings = {
        ("dummy-service", "--noop", "--exit-after", "0.2"): (0, "finished"),
        ("dummy-service", "--dummy-steps", "3", "--dummy-seconds", "0.1"): (0, "finished"),
        ("dummy-service", "--noop", "--simulate-loading", "--dummy-seconds", "0.05", "--exit-after", "0.4"): (
            0,
            "finished",
        ),
        ("worker", "dummy-service", "--fail-after", "0.1"): (75, "error"),
        ("worker", "dummy-service", "--fail-after", "0.1", "--fail-with", "BadData"): (65, "error"),
    }
    for number, (words, end) in enumerate(endings.items()):
        queue = f"{terminal.queue}-{number}"
        code, _, _ = await terminal.run(*words, QUEUE_ID=queue, TELEMETRY_PRODUCER_ID="dummy-service__a1b2c3")
        statuses = [status for _, status in await terminal.statuses(queue)]
        assert (code, statuses[-1]) == end and ("loading" in statuses) == (number in (1, 2)), words
    for words in (
        ("worker", "dummy-service", "--exit-after", "soon"),
        ("worker", "dummy-service", "--nap"),
        ("dummy-service", "--nap"),
    ):
        assert (await terminal.run(*words, QUEUE_ID="q", TELEMETRY_PRODUCER_ID="d__1"))[0] == 64
    code, _, err = await terminal.run("worker", "loader-producer", "--noop")
    assert code == 64 and err.startswith("streamforge: BadConfig: ")


async def test_a_dummy_started_by_hand_prints_how_to_reach_it_and_ends_at_the_first_ping(terminal):
    process = await terminal.begin("dummy-service", "--noop", "--exit-on-ping")
    queue = (await asyncio.wait_for(process.stderr.readline(), 90)).decode().split()[-1]
    deadline = time.monotonic() + 90
    while not await terminal.statuses(queue):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    code, _, _ = await terminal.run("debug", "ping", queue, "--count", "1")
    assert code == 0 and await asyncio.wait_for(process.wait(), 90) == 0
    assert [status for _, status in await terminal.statuses(queue)] == ["started", "pong", "finished"]


async def test_a_bus_that_is_not_there(tmp_path):
    terminal = Terminal(tmp_path, "kafka://127.0.0.1:9")
    code, out, err = await terminal.run("debug", "ping", "wf-1", "--timeout", "1")
    assert code == 75 and "streamforge: BusError: " in err and out == ""


async def test_through_a_queue_manager(tmp_path):
    terminal = Terminal(tmp_path, "")
    for name in ("QUEUE_CONTROL_TOPIC", "QUEUE_EVENTS_TOPIC"):
        del terminal.env[name]  # the manager's own
    async with open_lab(read_places(terminal.env)) as lab:
        code, out, err = await terminal.run("debug", "start", "--url", lab.url, "--json")
        assert (code, err) == (0, "") and 0 < json.loads(out)["ms"] < 60_000 and "pid" not in json.loads(out)
        queue = json.loads(out)["queue_id"]
        assert (await terminal.run("debug", "ping", queue, "--count", "3"))[0] == 0
        assert (await terminal.run("debug", "stop", queue))[0] == 0
        deadline = time.monotonic() + 90
        while not (listed := (await terminal.run("list", "--url", lab.url))[1]).startswith(
            f"stopped   {queue}"
        ):  # the manager draws the same conclusion
            assert time.monotonic() < deadline, listed
        code, _, err = await terminal.run("debug", "start", "--url", lab.url, "--queue-id", "wf-mine")
        assert code == 64 and "both" in err
    code, _, err = await terminal.run("debug", "start", "--url", "http://127.0.0.1:9")
    assert code == 75 and "streamforge up" in err


async def test_dummies_started_here_and_through_a_queue_manager_can_be_stopped(tmp_path):
    env = {"STREAMFORGE_HOME": str(tmp_path)}
    async with open_lab(read_places(env)) as lab:
        here, pid, ms = await start_here(
            lab.bus, "wf-here", env | {"EXIT_AFTER": "300"}, log=tmp_path / "d.log", timeout=45
        )
        try:
            assert ms > 0 and [*await living(lab.bus, "wf-here")] == [here]
            ends = await stop_workers(lab.bus, "wf-here", timeout=45)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert [(name, status) for name, (status, _) in ends.items()] == [(here, "interrupted")]
        queue, through, ms = await start_through(lab.url, parameters={"EXIT_AFTER": "300"}, timeout=45)
        ends = await stop_workers(lab.bus, queue, timeout=45)
        assert ms > 0 and [(name, status) for name, (status, _) in ends.items()] == [(through, "interrupted")]
