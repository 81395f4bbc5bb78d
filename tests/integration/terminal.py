"""A terminal of a given width, for tests of what a person sees."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios


def on_terminal(code: str, columns: int, *words: str) -> str:
    "Run Python code on a terminal of so many columns, and return what it wrote."
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=writing, stdout=writing, stderr=writing, env=env
    )
    os.close(writing)
    written = b""
    try:
        while chunk := os.read(reading, 65536):
            written += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(reading)
    assert process.wait(60) == 0, written.decode()
    return written.decode()


def lines_of(written: str) -> list[str]:
    "Return lines as they stand on the screen, without colours and movements of the cursor."
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in re.split(r"[\r\n]+", written)]
