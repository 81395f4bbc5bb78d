"""Time for a market in a test: it stands still while the machine does, so that nothing is missed by sleeping."""

import time

BLINK = 0.25  # seconds: the longest step


class Steady:
    "Seconds that pass between two looks; a pause of the whole machine counts as a short step."

    def __init__(self) -> None:
        self.looked, self.passed = time.monotonic(), 0.0

    def __call__(self) -> float:
        now = time.monotonic()
        self.passed += min(now - self.looked, BLINK)
        self.looked = now
        return self.passed
