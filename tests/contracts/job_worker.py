"""A worker for the contract of jobs: does what its variable DO names, one word after the other.

`exit:N` ends with this code, `say:X` prints, `env` prints its environment as JSON, `sleep` waits for ever, `deaf`
ignores SIGTERM, `polite:N` answers SIGTERM with this code, `child` starts a process that waits for ever and prints
its pid, `pid` prints its own, `fail:N:M` ends with N until the file COUNTER has M lines.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def say(what: object) -> None:
    "A line in one piece: `print` may write its end apart, and a kill can come between."
    os.write(1, f"{what}\n".encode())


for word in os.environ["DO"].split():
    what, _, value = word.partition(":")
    if what == "exit":
        sys.exit(int(value))
    elif what == "say":
        say(value)
    elif what == "env":
        say(json.dumps(dict(os.environ) | {"TARGET_ARGUMENT": sys.argv[-1]}))
    elif what == "pid":
        say(os.getpid())
    elif what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif what == "polite":
        signal.signal(signal.SIGTERM, lambda *_, code=int(value): (say("bye"), os._exit(code)))
    elif what == "child":
        say(subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]).pid)
    elif what == "fail":
        code, _, times = value.partition(":")
        counter = Path(os.environ["COUNTER"])
        with counter.open("a") as file:
            file.write("try\n")
        if len(counter.read_text().splitlines()) <= int(times):
            sys.exit(int(code))
    elif what == "sleep":
        time.sleep(600)
