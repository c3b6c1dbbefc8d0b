"""Python's search for circles of objects that nobody holds, in processes that are ours alone."""

from __future__ import annotations

import atexit
import gc

_NEW_OBJECTS = 10_000


def collect_seldom() -> None:
    """Search after every 10 000 new objects (Python: 700), and not at the end of the process.

    What our programs load stays for good: searching it again and again is a tenth of the time of a start, and searching
    it a last time most of what a process does after its last line.
    """
    gc.set_threshold(_NEW_OBJECTS, 10, 10)
    # What is frozen is not searched. By then nothing is left to do that a circle could keep from being done.
    atexit.register(gc.freeze)
