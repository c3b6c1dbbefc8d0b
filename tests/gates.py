"""Functions for tests to submit, which wait until they are let go.

executor.submit(wait_for, str(tmp_path / "go"), str(tmp_path / "runs"))   # in Python
service.add_function(WAIT_FOR, "wait_for")                                # as source
"""

from __future__ import annotations

import inspect
from typing import Final


def wait_for(path: str, note: str = "", value: object = "done") -> object:
    """Run until the file `path` exists and return `value`; the file `note` says that it runs."""
    import time
    from pathlib import Path

    if note:
        Path(note).touch()
    # It runs in a worker, which has none of the helpers of tests: this is its `eventually`.
    while not Path(path).exists():
        time.sleep(0.005)
    return value


def live(path: str) -> None:
    """Print "begun", and "done" once the file `path` exists."""
    import time
    from pathlib import Path

    print("begun")  # noqa: T201 - what a task prints is the case
    # As in `wait_for`.
    while not Path(path).exists():
        time.sleep(0.005)
    print("done")  # noqa: T201 - likewise


WAIT_FOR: Final = inspect.getsource(wait_for)
LIVE: Final = inspect.getsource(live)
