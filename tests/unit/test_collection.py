"""Python's search for garbage in our processes."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from headrace.bus.collection import collect_seldom

class Circle:
    def __init__(self): self.me = self
    def __del__(self): print("found", name)

collect_seldom()
print(gc.get_threshold()[0])
name = "when it was looked for"
Circle()
gc.collect()
name = "at the end"
Circle()
"""


def test_garbage_is_looked_for_seldom_and_not_at_the_end_of_a_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["10000", "found when it was looked for"]
