"What every runner of jobs must do. Written against the port alone; `job_worker.py` stands in for `streamforge worker`."

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from streamforge.core.errors import BadName, Conflict, NotFound
from streamforge.jobs.base import FINAL_EXIT_CODES, JobSpec, open_jobs

WORKER = Path(__file__).parent / "job_worker.py"


@pytest.fixture
def url(jobs_url):
    "The adapter's URL, with our stand-in where it starts processes itself; a cluster has it in the image."
    command = shlex.join([sys.executable, "-S", str(WORKER)])
    return f"{jobs_url}&command={quote(command)}" if jobs_url.startswith("process:") else jobs_url


@pytest.fixture
async def jobs(url):
    async with open_jobs(url) as opened:
        yield opened


def job(name: str, do: str, **more) -> JobSpec:
    env = {"DO": do, "QUEUE_ID": "wf-1"} | more.pop("env", {})
    return JobSpec(name=name, target="dummy-service", env=env, **more)


async def until(condition, timeout: float = 60.0):
    "Wait for a condition, with a deadline; its first true value."
    deadline = time.monotonic() + timeout
    while not (value := await condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return value


async def first_output(jobs, name: str) -> list[str]:
    "What a job printed, once it printed something."
    return await until(lambda: _lines(jobs, name))


async def _lines(jobs, name: str) -> list[str]:
    return (await jobs.log(name)).split()


def alive(pid: int) -> bool:
    "Does a process run (and is not merely waiting to be buried)?"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def dead(pid: int) -> bool:
    return not alive(pid)


async def test_a_job_runs_and_is_over(jobs, fresh):
    started = await jobs.start(job(fresh, "say:hello exit:0"))
    assert (started.name, started.target) == (fresh, "dummy-service") and not started.over
    ended = await jobs.wait(fresh, timeout=60)
    assert (ended.state, ended.tries, ended.exit_code, ended.pid) == ("succeeded", 1, 0, None) and ended.over
    assert await jobs.status(fresh) == ended and await jobs.list() == [ended] and await jobs.log(fresh) == "hello"


async def test_the_environment_is_the_specification_s(url, fresh, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "exported years ago")
    monkeypatch.setenv("SYMBOL", "WRONG")
    env = {"SYMBOL": "BTCUSDT", "TIME_RANGE": "2024-08-01:2024-08-02", "EMPTY": "", "ODD": "a b\"c'd=ö"}
    async with open_jobs(url, {"STREAMFORGE_BUS_URL": "embedded:///bus", "SYMBOL": "shared"}) as jobs:
        await jobs.start(job(fresh, "env exit:0", env=env))
        await jobs.wait(fresh, timeout=60)
        seen = json.loads(await jobs.log(fresh))
    assert env.items() <= seen.items() and seen["STREAMFORGE_BUS_URL"] == "embedded:///bus" and seen["PATH"]
    assert "AWS_SECRET_ACCESS_KEY" not in seen and seen["TARGET_ARGUMENT"] == "dummy-service"


@pytest.mark.parametrize("code", FINAL_EXIT_CODES)
async def test_some_exit_codes_are_final(jobs, fresh, code):
    await jobs.start(job(fresh, f"exit:{code}", backoff_limit=3))
    ended = await jobs.wait(fresh, timeout=60)
    assert (ended.state, ended.tries, ended.exit_code) == ("failed", 1, code) and str(code) in ended.message


@pytest.mark.parametrize("limit", [0, 2])
async def test_others_are_tried_again_up_to_a_limit(jobs, fresh, limit):
    await jobs.start(job(fresh, "say:try exit:75", backoff_limit=limit))
    ended = await jobs.wait(fresh, timeout=60)
    assert (ended.state, ended.tries, ended.exit_code) == ("failed", limit + 1, 75)
    assert (await jobs.log(fresh)).split() == ["try"] * (limit + 1)


async def test_a_second_try_may_succeed(jobs, fresh, tmp_path):
    await jobs.start(job(fresh, "fail:1:2 exit:0", env={"COUNTER": str(tmp_path / "tries")}))
    ended = await jobs.wait(fresh, timeout=60)
    assert (ended.state, ended.tries, ended.exit_code) == ("succeeded", 3, 0)


async def test_a_killed_worker_is_tried_again(jobs, fresh):
    await jobs.start(job(fresh, "pid sleep", backoff_limit=1))
    for number in (1, 2):
        pids = await until(lambda number=number: _enough(jobs, fresh, number))
        os.kill(int(pids[-1]), signal.SIGKILL)
    ended = await jobs.wait(fresh, timeout=60)
    assert (ended.state, ended.tries, ended.exit_code) == ("failed", 2, -signal.SIGKILL)


async def _enough(jobs, name: str, count: int) -> list[str]:
    lines = await _lines(jobs, name)
    return lines if len(lines) >= count else []


async def test_a_name_stands_for_one_specification(jobs, fresh):
    spec = job(fresh, "pid sleep")
    await jobs.start(spec)
    pid = await first_output(jobs, fresh)
    assert (await jobs.start(spec)).pid == int(pid[0]) and len(await jobs.list()) == 1
    for other in (job(fresh, "sleep"), job(fresh, "pid sleep", slots=2), job(fresh, "pid sleep", env={"SEED": "7"})):
        with pytest.raises(Conflict):
            await jobs.start(other)
    await jobs.stop(fresh)
    assert (await jobs.start(spec)).state == "stopped"  # over is over: a new try has a new name
    for wrong in ("", "Upper", "a_b", "../x", "x" * 64, "-a", "a-"):
        with pytest.raises(BadName):
            await jobs.start(job(wrong, "exit:0"))


async def test_the_same_start_at_once_is_one_job(jobs, fresh):
    await asyncio.gather(*(jobs.start(job(fresh, "say:once exit:0")) for _ in range(10)))
    assert (await jobs.wait(fresh, timeout=60)).tries == 1 and await jobs.log(fresh) == "once"


async def test_unknown_jobs(jobs, fresh):
    assert await jobs.status(fresh) is None and await jobs.list() == []
    await jobs.stop(fresh)  # nothing to stop is stopped
    for asked in (jobs.wait(fresh, timeout=1), jobs.log(fresh)):
        with pytest.raises(NotFound):
            await asked


async def test_waiting_has_an_end(jobs, fresh):
    await jobs.start(job(fresh, "sleep"))
    with pytest.raises(TimeoutError):
        await jobs.wait(fresh, timeout=0.05)


async def test_stop_is_polite_first(jobs, fresh):
    await jobs.start(job(fresh, "polite:75 say:up sleep", backoff_limit=5))
    await first_output(jobs, fresh)
    began = time.monotonic()
    await jobs.stop(fresh, grace=120)
    ended = await jobs.status(fresh)
    assert (ended.state, ended.tries, ended.exit_code) == ("stopped", 1, 75) and time.monotonic() - began < 60
    assert "bye" in await jobs.log(fresh)
    await jobs.stop(fresh)
    assert await jobs.status(fresh) == ended


async def test_stop_ends_a_deaf_worker_and_what_it_started(jobs, fresh):
    await jobs.start(job(fresh, "deaf child pid sleep", backoff_limit=5))
    pids = await until(lambda: _enough(jobs, fresh, 2))
    began = time.monotonic()
    await jobs.stop(fresh, grace=0.3)
    ended = await jobs.status(fresh)
    assert (ended.state, ended.exit_code) == ("stopped", -signal.SIGKILL) and time.monotonic() - began > 0.25
    for pid in pids:
        await until(lambda pid=pid: dead(int(pid)))


async def test_stop_between_two_tries(jobs, fresh):
    await jobs.start(job(fresh, "say:try exit:75", backoff_limit=50))
    await until(lambda: _enough(jobs, fresh, 2))
    await jobs.stop(fresh)
    ended = await jobs.status(fresh)
    lines = await _lines(jobs, fresh)
    assert ended.state == "stopped" and ended.tries == len(lines) < 50


@pytest.mark.parametrize("pause", [0, 0.005, 0.02])
async def test_stop_right_after_start(jobs, fresh, pause):
    await jobs.start(job(fresh, "sleep"))
    await asyncio.sleep(pause)
    await asyncio.wait_for(jobs.stop(fresh, grace=5), 60)
    assert (await jobs.status(fresh)).state == "stopped"


async def test_slots(jobs, fresh, jobs_url):
    "Two CPUs: two run, the others wait in their order; a waiting one can be stopped; one that wants too much gets all."
    if not jobs_url.startswith("process:"):
        pytest.skip("slots are the cluster's business")
    names = [f"{fresh}-{k}" for k in range(5)]
    for name in names[:4]:
        await jobs.start(job(name, "say:up sleep"))
    await jobs.start(job(names[4], "say:up exit:0", slots=64))
    for name in names[:2]:
        await first_output(jobs, name)
    assert [job.state for job in await jobs.list()] == ["running", "running", "waiting", "waiting", "waiting"]
    await jobs.stop(names[2])
    stopped = await jobs.status(names[2])
    assert (stopped.state, stopped.tries) == ("stopped", 0)
    await jobs.stop(names[0])
    assert await first_output(jobs, names[3])
    assert (await jobs.status(names[4])).state == "waiting"
    await jobs.stop(names[1])
    await jobs.stop(names[3])
    assert (await jobs.wait(names[4], timeout=60)).state == "succeeded"


async def test_the_log_is_the_end_of_the_output(jobs, fresh):
    await jobs.start(job(fresh, " ".join(f"say:line{k}" for k in range(300)) + " exit:0"))
    await jobs.wait(fresh, timeout=60)
    assert (await jobs.log(fresh, tail=3)).splitlines() == ["line297", "line298", "line299"]
    assert (
        len((await jobs.log(fresh)).splitlines()) == 50 and len((await jobs.log(fresh, tail=1000)).splitlines()) == 300
    )


async def test_closing_stops_what_it_started(url, fresh, jobs_url):
    if not jobs_url.startswith("process:"):
        pytest.skip("a cluster goes on without us")
    async with open_jobs(url) as jobs:
        await jobs.start(job(f"{fresh}-a", "child pid sleep"))
        await jobs.start(job(f"{fresh}-b", "say:up sleep", slots=64))
        pids = await until(lambda: _enough(jobs, f"{fresh}-a", 2))
    assert [job.state for job in await jobs.list()] == ["stopped", "stopped"]
    for pid in pids:
        await until(lambda pid=pid: dead(int(pid)))


PARENT = """
import asyncio, sys
from streamforge.jobs.base import JobSpec, open_jobs
async def main(url, name):
    async with open_jobs(url) as jobs:
        await jobs.start(JobSpec(name=name, target="dummy-service", env={"DO": sys.argv[3]}))
        while len((await jobs.log(name)).split()) < 2: await asyncio.sleep(0.01)
        print(await jobs.log(name), flush=True)
        await asyncio.sleep(600)
asyncio.run(main(*sys.argv[1:3]))
"""


def parent_of(url: str, name: str, do: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, f"{url}&grace=0.5", name, do], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("do", ["child pid sleep", "deaf child pid sleep"], ids=["polite", "deaf"])
async def test_jobs_do_not_outlive_a_killed_parent(url, fresh, jobs_url, do):
    if not jobs_url.startswith("process:"):
        pytest.skip("a cluster goes on without us")
    parent = parent_of(url, fresh, do)
    try:
        pids = [int(await asyncio.to_thread(parent.stdout.readline)) for _ in range(2)]
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.communicate()
    for pid in pids:
        await until(lambda pid=pid: dead(pid))
