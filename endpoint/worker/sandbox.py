"""Sandboxes: each call in an empty working directory of its own, which goes when the call has ended.

ROOT/<task id>       of the first attempt; -2, -3 ... follow it for further ones

A sandbox keeps calls out of each other's way. It is no wall: a call may read and write wherever its user may.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Final

from headrace.endpoint.worker.limits import WorkerLimits

VARIABLE: Final = "HEADRACE_SANDBOX_DIR"

_MOST_NAMES: Final = 1_000


class Sandboxes:
    """The sandboxes of one worker, one at a time."""

    def __init__(self, root: str, *, keep_failed: bool) -> None:
        self._root = root
        self._keep_failed = keep_failed
        self._home = _where_we_are()
        self._path = ""

    def enter(self, name: str) -> None:
        """Make a directory and go there. Raises `OSError` when it cannot be made, on a full disk for example."""
        self._path = _made(os.path.join(self._root, name))
        os.environ[VARIABLE] = self._path
        os.chdir(self._path)

    def leave(self, *, failed: bool) -> None:
        """Go back where the worker was, and remove the directory. What cannot be removed is told in the log."""
        os.chdir(self._home)
        os.environ.pop(VARIABLE, None)
        if not (failed and self._keep_failed):
            remove_tree(self._path)


class SandboxRoot:
    """The directory of all sandboxes of a pool, for the pool."""

    def __init__(self, root: Path, *, keep_failed: bool) -> None:
        self.root = root
        self._keep_failed = keep_failed

    @classmethod
    def of(cls, limits: WorkerLimits) -> SandboxRoot | None:
        """None when calls have no sandboxes."""
        if limits.sandboxes is None:
            return None
        return cls(Path(limits.sandboxes), keep_failed=limits.keep_failed_sandboxes)

    def prepare(self) -> None:
        """Make the directory, without what workers of an earlier pool left in it. Raises `OSError`."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.clear()

    def clear(self) -> None:
        """Remove all sandboxes, unless those of failed calls are kept: then nobody knows which call had ended how."""
        if not self._keep_failed and self.root.is_dir():
            for path in self.root.iterdir():
                remove_tree(str(path))

    def remove(self, name: str) -> None:
        """Remove the sandbox of a call whose worker died, if failed ones are not kept."""
        if not self._keep_failed:
            remove_tree(str(self.root / name))


def remove_tree(path: str) -> None:
    """Remove a directory, also when a call took its own rights away in it."""
    import shutil  # loads compressors, which only workers with sandboxes shall pay for

    if os.path.islink(path):
        with contextlib.suppress(OSError):
            os.unlink(path)
    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path):
        _take_rights(path)
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        sys.stderr.write(f"The sandbox {path} could not be removed: something in it is in use, or another user's.\n")


def _take_rights(path: str) -> None:
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(folder, stat.S_IRWXU)


def _made(path: str) -> str:
    for number in range(1, _MOST_NAMES):
        candidate = path if number == 1 else f"{path}.{number}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(candidate, 0o700)
            return candidate
    raise FileExistsError(f"{path} is there {_MOST_NAMES} times: remove what was kept")


def _where_we_are() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"
