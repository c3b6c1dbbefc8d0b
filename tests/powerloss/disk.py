"""A disk in a directory, for tests that cut the power.

with power_disk(tmp_path / "disk") as disk:
    …start something that stores in disk.path
    kill it; disk.cut(); start it again
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from powerloss.layers import Cut, Model

_TESTS = Path(__file__).parent.parent


class PowerDisk:
    """A mounted disk; what was not synced is gone after `cut`."""

    def __init__(self, path: Path, process: subprocess.Popen[str]) -> None:
        self.path = path
        self._process = process

    def cut(self, cut: Cut = Cut.DROP, seed: int = 0) -> dict[str, int]:
        """Cut the power, and mount what is left; says what was lost. Whoever used the disk must have been killed."""
        return self._ask(do="cut", cut=cut, seed=seed)

    def stop_after(self, changes: int) -> None:
        """Let the power fail before the given change (1 is the next one) to the disk: from then on it is silent."""
        self._ask(do="stop after", changes=changes)

    @property
    def counts(self) -> dict[str, int]:
        """Writes, syncs and changes of names so far; `stopped` is whether the power has failed."""
        return self._ask(do="count")

    def _ask(self, **command: Any) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer


@contextlib.contextmanager
def power_disk(path: Path, model: Model = Model.POSIX) -> Iterator[PowerDisk]:
    """Mount a disk there. Skips the test where that is not allowed."""
    reason = _why_not()
    if reason:
        pytest.skip(reason)
    path.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fuse.py")), str(path), model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline() or '{"error": "it ended at once"}')
        if "error" in said:
            pytest.skip(f"no file system can be mounted here: {said['error']}")
        yield PowerDisk(path, process)
    finally:
        process.stdin.close()
        status = process.wait(60)
        process.stdout.close()
    assert status == 0


def _why_not() -> str:
    if not sys.platform.startswith("linux"):
        return "needs FUSE, which Linux has"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "needs /dev/fuse, and it is missing or not open to this user"
    if os.geteuid() != 0:
        return "needs the right to mount (root)"
    return ""
