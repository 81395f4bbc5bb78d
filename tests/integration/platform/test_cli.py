"""The command line as a person uses it: what it prints, and with which code it ends."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminal import lines_of, on_terminal
from typer.testing import CliRunner

from streamforge.bus.base import Message, open_bus
from streamforge.cli.main import app
from streamforge.cli.services import open_lab
from streamforge.core.errors import BadConfig, NotFound
from streamforge.core.settings import read_places
from streamforge.core.times import INTERVALS
from streamforge.exchange.simulator.app import Simulator, serve_app
from streamforge.workers.targets import TARGETS


async def run(*words: str, timeout: float = 120, **env: str) -> tuple[int, str, str]:
    "Exit code, output and errors of a command."
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "streamforge.cli.main",
        *words,
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), timeout)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_workflow_from_the_terminal(tmp_path):
    home = str(tmp_path)
    async with (
        serve_app(Simulator.open()) as exchange,
        open_lab(read_places({"STREAMFORGE_HOME": home}), env={"BINANCE_API_URL": exchange}) as lab,
    ):
        code, out, err = await run("start", "BTCUSDT", "--range", "2021-05-01:2021-05-03", "--wait", "--url", lab.url)
        assert (code, err) == (0, "") and out.startswith("wf-btcusdt-api_candles_1h-20210501-")
        queue = out.strip()
        _, listed, _ = await run("list", "--url", lab.url)
        assert listed.startswith(f"finished  {queue}\n")
        assert re.search(
            r"  BTCUSDT; api_candles_1h 2021-05-01:2021-05-03; 48 records; 20\d\d-\S+, took \d+\.\d s\n", listed
        )
        _, listed, _ = await run("list", "--json", "--url", lab.url)
        assert [flow["records"] for flow in json.loads(listed)] == [48]  # each record once
        assert "nothing to stop" in (await run("stop", queue, "--url", lab.url))[1]
        code, logged, _ = await run("logs", queue, "--url", lab.url)
        assert code == 0 and {line.split("__")[0] for line in logged.splitlines()} >= {
            "loader-producer",
            "arango-connector",
        }
        code, one, _ = await run("logs", queue, "loader-producer", "-f", "--url", lab.url)  # it is over: -f ends
        assert code == 0 and one and " | " not in one.splitlines()[0][:60]
        code, _, err = await run("logs", queue, "nope", "--url", lab.url)
        assert code == 65 and "it has loader-producer__" in err
        for words in (("stop", "nope"), ("logs", "nope")):
            code, _, err = await run(*words, "--url", lab.url)
            assert code == 65 and "found 'nope'; `streamforge list`" in err
        long = ("start", "--file", str(tmp_path / "dummy.json"), "--url", lab.url)
        (tmp_path / "dummy.json").write_text(
            '{"targets": [{"target": "dummy-service", "parameters": {"NOOP": "1", "EXIT_AFTER": "300"}}]}'
        )
        _, dummy, _ = await run(*long)
        deadline = time.monotonic() + 60
        while "loading" not in (listed := (await run("list", "--url", lab.url))[1]) and "started" not in listed:
            assert time.monotonic() < deadline, listed
        code, stopped, _ = await run("stop", dummy.strip(), "--url", lab.url)
        assert code == 0 and stopped.startswith(f"stopped     {dummy.strip()}\n") and "dummy-service__" in stopped
        code, _, err = await run("start", "NOSUCHCOIN", "--range", "2021-05-01:2021-05-03", "--wait", "--url", lab.url)
        assert code == 64 and "-1121" in err
        some = ("start", "BTCUSDT,NOSUCHCOIN", "--range", "2021-05-01:2021-05-03", "--url", lab.url)
        code, _, err = await run(*some, "--source", "rest", "--wait")
        assert code == 0 and "note: 1 of 2 markets loaded whole; NOSUCHCOIN unknown" in err
        code, _, err = await run(*some, "--source", "sample")
        assert code == 64 and "expected --source as one of auto, archive, rest, found 'sample'" in err
        code, _, err = await run(*some, "--exchange", "nope")
        assert code == 64 and "expected binance or an exchange that ccxt knows, found 'nope'" in err
        code, _, err = await run(*some, "--exchange", "krakenn")
        assert code == 64 and "did you mean kraken" in err
        code, _, err = await run(*some, "--exchange", "kraken", "--source", "archive")
        assert code == 64 and "expected an exchange with an archive (binance), found kraken" in err
        code, _, err = await run(*some, "--source", "archive", "--wait")  # the lab's exchange has no archive
        assert code == 64 and "BINANCE_ARCHIVE_URL" in err
    _, topics, _ = await run("topics", "--home", home)
    assert ["4", "48"] in [line.split()[1:] for line in topics.splitlines() if line.startswith(f"{queue}-data ")]
    code, out, _ = await run("tail", f"{queue}-data", "--home", home, "--from", "earliest", "--count", "2")
    assert code == 0 and len(out.splitlines()) == 2 and '"symbol":"BTCUSDT"' in out


async def test_a_workflow_that_fails_is_seen_by_those_who_wait(tmp_path):
    parameters = {"NOOP": "1", "FAIL_AFTER": "0.1", "FAIL_WITH": "BadData"}
    request = tmp_path / "fails.json"
    request.write_text(json.dumps({"targets": [{"target": "dummy-service", "parameters": parameters}]}))
    async with open_lab(read_places({"STREAMFORGE_HOME": str(tmp_path)})) as lab:

        async def ask(*words: str):
            return await asyncio.to_thread(CliRunner().invoke, app, [*words, "--url", lab.url])

        begun = await ask("start", "--file", str(request))  # prints the id, and leaves it to itself
        assert begun.exit_code == 0 and begun.stdout.startswith("wf-") and begun.stdout.count("\n") == 1
        waited = await ask("start", "--file", str(request), "--wait")
        queue = waited.stdout.strip()
        assert isinstance(waited.exception, BadConfig), waited.output
        assert f"expected '{queue}' to finish, found it error" in str(waited.exception)
        logged = await ask("logs", queue, "-f")  # it is over: -f ends
        assert logged.exit_code == 0 and "FAIL_AFTER" in logged.stdout
        nope = await ask("logs", queue, "nope", "-f")
        assert isinstance(nope.exception, NotFound), nope.output
        assert "found 'nope'; it has dummy-service__" in str(nope.exception)


async def test_an_empty_lab_says_what_to_do(tmp_path):
    async with open_lab(read_places({"STREAMFORGE_HOME": str(tmp_path)})) as lab:
        code, out, err = await run("list", "--url", lab.url)
        assert (code, out) == (0, "") and "no workflow yet; `streamforge start BTCUSDT" in err
        assert (await run("list", "--json", "--url", lab.url))[1] == "[]\n"
    bare = str(tmp_path / "bare")
    for command in ("ping", "stop"):
        code, _, err = await run("debug", command, "nope", "--home", bare)
        assert code == 65 and "a bus on which no worker has reported; correct --home or --bus" in err


async def test_progress_of_a_wait_on_a_terminal(tmp_path):
    "On a terminal `start --wait` shows records and what is still at work; the id alone goes to standard output."
    async with (
        serve_app(Simulator.open()) as exchange,
        open_lab(read_places({"STREAMFORGE_HOME": str(tmp_path)}), env={"BINANCE_API_URL": exchange}) as lab,
    ):
        words = ("start", "BTCUSDT", "--range", "2021-05-01:2021-05-03", "--wait", "--url", lab.url)
        code = "from streamforge.cli.main import main; main()"
        written = await asyncio.to_thread(on_terminal, code, 80, *words)
    lines = lines_of(written)
    assert max(map(len, lines)) <= 80
    assert "of 48 records" in " ".join(" ".join(lines).split())
    assert lines[0].startswith("wf-btcusdt-api_candles_1h-20210501-")


async def test_topics_are_removed_by_name(tmp_path):
    home = ("--home", str(tmp_path))
    async with open_bus(read_places({"STREAMFORGE_HOME": str(tmp_path)}).bus_url) as bus:
        for topic in ("queue-events", "one", "two"):
            await bus.create_topic(topic)
        await bus.publish("one", [Message(b"{}")])
    code, out, err = await run("topics", "rm", "one", *home)  # asked, and nothing is there to answer
    assert code == 1 and "Delete 'one' with 1 records?" in err
    assert (await run("topics", "rm", "one", "--yes", *home))[:2] == (0, "deleted one: 1 records\n")
    code, _, err = await run("topics", "rm", "one", "--yes", *home)
    assert code == 64 and "found 'one'; `streamforge topics` lists them" in err
    code, _, err = await run("topics", "rm", "queue-events", "--yes", *home)
    assert code == 64 and "expected a topic of data" in err
    listed = (await run("topics", *home))[1].splitlines()
    assert [line.split()[0] for line in listed] == ["topic", "queue-events", "two"]


def completed(line: str, shell: str = "bash", after: str = "") -> list[str]:
    "What a shell is offered behind a line; nothing may go to standard error."
    code = "import sys; sys.argv[0] = 'streamforge'; from streamforge.cli.main import main\n"
    code += f"try:\n    main()\nfinally:\n    {after or 'pass'}\n"
    asked = {"_STREAMFORGE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
    asked |= {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    command, env = [sys.executable, "-c", code], os.environ | asked
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return re.findall(r'^(?:.*\(\()?"([^"]+)"', done.stdout, re.M) if shell == "zsh" else done.stdout.split()


HEAVY = ("torch", "numpy", "pandas", "pyarrow", "httpx", "structlog", "fastapi", "streamforge.store.base")


def test_a_shell_completes_commands():
    assert completed("streamforge da", after=f"assert not set({HEAVY}) & set(sys.modules), sys.modules") == ["data"]
    assert completed("streamforge data ver") == ["verify"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
async def test_a_shell_completes_values(shell, tmp_path):
    home = str(tmp_path)
    async with open_bus(read_places({"STREAMFORGE_HOME": home}).bus_url) as bus:
        for topic in ("one", "two"):
            await bus.create_topic(topic)
    light = f"assert not set({HEAVY}) & set(sys.modules), sys.modules"
    assert completed("streamforge worker ", shell, light) == [*TARGETS]
    assert completed("streamforge worker ppo", shell, light) == ["ppo-trainer"]
    assert completed("streamforge start --type api_t", shell, light) == ["api_trades"]
    assert set(completed("streamforge start --type ", shell, light)) >= {"ws_candles_1h", "ws_depth"}
    assert completed("streamforge backtest walk-forward X --interval 1", shell, light) == [
        name for name in INTERVALS if name.startswith("1")
    ]
    assert completed("streamforge data verify --interval 30", shell) == ["30m"]
    assert completed("streamforge start --source a", shell, light) == ["auto", "archive"]
    assert completed(f"streamforge topics rm --home {home} ", shell, light) == ["one", "two"]
    assert completed(f"streamforge tail --home {home} tw", shell, light) == ["two"]
    assert completed(f"streamforge dlq list --home {home} o", shell) == ["one"]
    assert completed("streamforge logs --url http://127.0.0.1:1 ", shell, light) == []


async def test_a_shell_completes_ids_of_workflows(tmp_path):
    body = {"targets": [{"target": "dummy-service", "parameters": {"NOOP": "1", "EXIT_AFTER": "300"}}]}
    (tmp_path / "dummy.json").write_text(json.dumps(body))
    async with open_lab(read_places({"STREAMFORGE_HOME": str(tmp_path / "lab")})) as lab:
        _, queue, _ = await run("start", "--file", str(tmp_path / "dummy.json"), "--url", lab.url)
        for command in ("logs", "stop"):
            deadline = time.monotonic() + 60  # a busy machine may not answer within the patience of a Tab
            while not (offered := await asyncio.to_thread(completed, f"streamforge {command} --url {lab.url} ")):
                assert time.monotonic() < deadline
            assert offered == [queue.strip()]
        await run("stop", queue.strip(), "--url", lab.url)


async def test_bad_words_get_one_line_and_64(tmp_path):
    (tmp_path / "empty").mkdir()
    doubled = tmp_path / "doubled"
    doubled.mkdir()
    (doubled / "BTCUSDT.csv").write_text(
        "open_time,open,high,low,close,volume\n" + "1609459200000,1,1,1,1,1\n" * 2 + "1609462800000,1,1,1,1,1\n"
    )
    home = str(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        wrong = {
            "BadTimeRange": ("start", "BTCUSDT", "--range", "2021-05-03:2021-05-01"),
            "PortInUse": ("up", "--port", port, "--home", home),
            "BadUrl": ("topics", "--home", home),
            "UnknownTopic": ("tail", "no-such-topic", "--home", home, "--from", "earliest"),
        }
        async with open_lab(read_places({"STREAMFORGE_HOME": str(tmp_path / "lab")})) as lab:
            for name, words in wrong.items():
                env = {"STREAMFORGE_BUS_URL": "carrier-pigeon://roof"} if name == "BadUrl" else {}
                code, out, err = await run(*words, **env, STREAMFORGE_URL=lab.url)
                assert code == 64 and err.count("\n") == 1 and err.startswith(f"streamforge: {name}: "), (
                    name,
                    code,
                    out,
                    err,
                )
    for folder, name in (("empty", "Bad"), ("doubled", "BadCandles"), ("absent", "Bad")):
        code, _, err = await run("demo", "--source", str(tmp_path / folder), "--home", home)
        assert (
            code in (64, 65)
            and err.startswith(f"streamforge: {name}")
            and err.count("\n") == 1
            and str(tmp_path / folder) in err
        ), err
    assert len(list(tmp_path.rglob("store.db"))) == 1  # that of the lab: the refused demos have made nothing
    code, _, err = await run("list", STREAMFORGE_URL="http://127.0.0.1:9")
    assert code == 75 and "streamforge up" in err


@pytest.fixture
def in_background():
    """SIGINT ignored, as in what a shell script starts with `&`: a suite that runs so passes it on to all its children
    (POSIX, Shell Command Language, 2.11), and a demo that ignores Ctrl-C goes on to its end and exit code 0."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def as_in_a_terminal() -> None:
    "In a child, before its program begins: Ctrl-C is not ignored, whatever started the tests."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def test_ctrl_c_stops_everything(tmp_path, in_background):
    "Interrupted while workers run, the demo says where things are and leaves no process behind."
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "streamforge.cli.main",
        "demo",
        "--home",
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=as_in_a_terminal,
    )
    deadline = time.monotonic() + 90
    while not list((tmp_path / "logs").glob("loader-*.log")):
        assert time.monotonic() < deadline and process.returncode is None
        await asyncio.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 130 and f"Stopped. What was done lies in {tmp_path}" in out.decode().replace(
        "\n", " "
    ).replace("  ", " ")
    assert not processes_of(tmp_path)


def processes_of(home: Path) -> list[str]:
    "Processes whose environment names this folder (Linux)."
    return [path.name for path in Path("/proc").glob("[0-9]*") if str(home) in _environment(path)]


def _environment(process: Path) -> str:
    try:
        return (process / "environ").read_bytes().decode("utf-8", "replace")
    except OSError:  # it has gone, or is not ours
        return ""


@pytest.mark.parametrize("words", [(), ("backtest",), ("demo",), ("start",), ("tail",), ("simulate-exchange",)])
async def test_help_reads(words):
    code, out, _ = await run(*words, "--help")
    assert code == 0 and "Usage" in out and len(out) > 200
