"""The pool's directory of large payloads, between its agent and its workers.

    objects/<sha256>    arguments, fetched once and kept while there is room; read by workers
    results/<name>      values that a worker gives, until the agent has stored them

Workers use the two functions, the agent the class. All of it is the pool's alone (0700), and begins empty.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections import Counter, OrderedDict
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from headrace.bus.data.payloads import Part

MOST_BYTES: Final = 8 << 30
"""Beyond this, arguments that no call needs now make room."""

_LATE_S = 60.0

_numbers = itertools.count(1)

_known_as: list[int] = []


def object_path(spool: Path, part: Part) -> Path:
    """Where an argument lies."""
    return spool / "objects" / part.digest


def be_known_as(pid: int) -> None:
    """Name values by this process id: in its container a worker has another one, perhaps that of its neighbours."""
    _known_as[:] = [pid]


def open_result(spool: Path) -> IO[bytes]:
    """A new file for a value. Raises `OSError`."""
    pid = _known_as[0] if _known_as else os.getpid()
    return _open(spool / "results" / f"{pid}-{next(_numbers)}")


def _open(path: Path) -> IO[bytes]:
    return open(path, "x+b", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


class Spool:
    """The agent's side; as a context it makes the directory, and removes it at the end.

    An object that is pinned stays; the others go in the order of their last use.
    """

    def __init__(self, directory: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.directory = directory
        self._most_bytes = most_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._pins: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def clear(self) -> None:
        """Make the directory, empty. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)
        for directory in (self.directory, self.directory / "objects", self.directory / "results"):
            directory.mkdir(mode=0o700)

    @property
    def size(self) -> int:
        """How many bytes the objects have."""
        return sum(self._sizes.values())

    def has(self, digest: str) -> bool:
        """Whether an object is here; if so, it counts as used."""
        if digest not in self._sizes:
            return False
        self._sizes.move_to_end(digest)
        return True

    def pin(self, digest: str) -> None:
        """Keep an object until it is released as often, also if it comes only later."""
        self._pins[digest] += 1

    def release(self, digest: str) -> None:
        """Take a pin out."""
        self._pins[digest] -= 1
        if self._pins[digest] <= 0:
            del self._pins[digest]
            self._make_room(0)

    def new_file(self, digest: str, size: int) -> IO[bytes]:
        """A file for an object that is being fetched; room is made for it. Raises `OSError`."""
        self._make_room(size)
        path = self.directory / "objects" / f"{digest}.{next(_numbers)}"
        return _open(path)

    def take(self, file: IO[bytes], digest: str, size: int) -> None:
        """Make what is in a file the object. Raises `OSError`."""
        file.close()
        Path(file.name).replace(self.directory / "objects" / digest)
        self._sizes[digest] = size

    def drop(self, file: IO[bytes]) -> None:
        """Forget a file, if nobody took it."""
        file.close()
        Path(file.name).unlink(missing_ok=True)

    def result(self, name: str) -> Path:
        """Where a worker has put a value. A name that is a path stays inside the directory."""
        return self.directory / "results" / Path(name).name

    def tidy(self, wanted: Collection[str]) -> None:
        """Remove what workers that are dead now left half written; `wanted` are names of results to be stored."""
        for path in (self.directory / "results").iterdir():
            pid = path.name.partition("-")[0]
            with contextlib.suppress(FileNotFoundError):
                # A report of the worker's last moment may still be on its way.
                if path.name not in wanted and not _is_alive(pid) and time.time() - path.stat().st_mtime > _LATE_S:
                    path.unlink()

    def _make_room(self, size: int) -> None:
        room = self._most_bytes - size - self.size
        for digest in list(self._sizes):
            if room >= 0:
                return
            if digest not in self._pins:
                room += self._sizes.pop(digest)
                (self.directory / "objects" / digest).unlink(missing_ok=True)
