"""The audit log of an endpoint: who ran what where and when, and how it ended.

One line of JSON for each task whose result was stored. Arguments, values and messages of errors are not in it. Pools
note what there is to write, and write it together, at most `_EVERY_S` later: nothing waits for the disk. All processes
of an endpoint append to one file, each write with whole lines.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import logging
import os
import pwd
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from headrace.bus.data.failures import decode_failure
from headrace.bus.errors import DecodeError
from headrace.bus.ids import task_id
from headrace.bus.tasks.bundles import TaskResult

if TYPE_CHECKING:  # a pool's; a manager reads audit logs, too, and would load the bus for it
    from headrace.endpoint.agent.held import Held

logger = logging.getLogger(__name__)

LONGEST_BYTES: Final = 64 * 1024 * 1024
"""A file that is longer becomes `NAME.1`, what was that `NAME.2`, and so on."""
OLD_FILES: Final = 10

TASK_ENDED: Final = "task_ended"
_EVERY_S: Final = 0.25
_MOST_STRANGE: Final = 10_000
"""Lines that are none, after which what a local user has written is read no further."""
_MOST_NOTED: Final = 100_000
_OPEN: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class TaskLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line about a task. Times are unix seconds; what did not happen is left out."""

    time: float
    event: str
    task_id: UUID
    principal: str
    function_id: UUID
    endpoint_id: UUID
    pool: str
    host: str
    user: str
    """The local user whom the pool runs as."""
    state: str
    error: str = ""
    """The type of the error."""
    submitted_at: float = 0.0
    taken_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    attempts: int = 0
    worker: str = ""


_decode_line = msgspec.json.Decoder(TaskLine).decode


class AuditFile:
    """The file. Every write opens it anew, so that whoever moves it away moves it for all."""

    def __init__(self, path: Path, *, longest_bytes: int = LONGEST_BYTES) -> None:
        self._path = path
        self._longest_bytes = longest_bytes

    def append(self, lines: bytes) -> None:
        """Append whole lines. Raises `OSError`."""
        handle = os.open(self._path, _OPEN, 0o600)
        try:
            # For others that append, and above all for whoever moves the file: nothing is written behind its back.
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not self._is_current(handle):
                os.close(handle)
                handle = os.open(self._path, _OPEN, 0o600)
                fcntl.flock(handle, fcntl.LOCK_EX)
            written = 0
            while written < len(lines):
                written += os.write(handle, lines[written:])
            if os.fstat(handle).st_size > self._longest_bytes:
                self._move_away()
        finally:
            os.close(handle)

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._path.stat())
        except FileNotFoundError:
            return False

    def _move_away(self) -> None:
        for number in range(OLD_FILES - 1, 0, -1):
            if self._old(number).exists():
                os.replace(self._old(number), self._old(number + 1))
        os.replace(self._path, self._old(1))

    def _old(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def collect(source: Path, taken: Path, into: AuditFile, **facts: Any) -> None:
    """Move the lines that a pool of a local user has left in `source` to root's file, with what root knows better.

    `taken` is where root alone may write. What is no line is counted. Raises `OSError`; the lines then stay.
    """
    if not os.path.lexists(taken):
        try:
            if not stat.S_ISREG(source.lstat().st_mode):
                raise OSError(f"{source} is no file")
        except FileNotFoundError:
            return
        os.rename(source, taken)
    if not stat.S_ISREG(taken.lstat().st_mode):
        # Exchanged for something else at the last moment.
        _remove(taken)
        into.append(audit_line("lines_unreadable", count=1, **facts))
        return
    data = _taken(taken)
    if data is None:
        return
    lines, strange = [], 0
    for raw in io.BytesIO(data):
        if strange >= _MOST_STRANGE:
            break
        try:
            line = _decode_line(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            strange += 1
            continue
        if line.event != TASK_ENDED:
            # Of anything else than tasks a pool has nothing to say: only its manager has.
            strange += 1
            continue
        lines.append(msgspec.json.encode(msgspec.structs.replace(line, **facts)) + b"\n")
    if strange:
        lines.append(audit_line("lines_unreadable", count=strange, **facts))
    if lines:
        into.append(b"".join(lines))
    taken.unlink()


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except IsADirectoryError:
        shutil.rmtree(path)


def _taken(path: Path) -> bytes | None:
    """What is in a file that was the user's; None while the user still writes there."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return file.read(LONGEST_BYTES)


class AuditLog:
    """What a pool notes. `run` until cancelled, then `flush` once more."""

    def __init__(self, file: AuditFile, *, endpoint: UUID, pool: str) -> None:
        self._file = file
        self._endpoint = endpoint
        self._pool = pool
        self._host = socket.gethostname()
        self._user = local_user()
        self._noted: list[TaskLine] = []
        self._lost = 0
        self._is_broken = False
        self._encoder = msgspec.json.Encoder()

    def note(self, held: Held, results: Sequence[TaskResult]) -> None:
        """Results of a bundle were stored by us."""
        if len(self._noted) >= _MOST_NOTED:
            self._lost += len(results)
            return
        # Not the results themselves: their values may be large.
        self._noted += self._lines(time.time(), held, results)

    async def run(self) -> None:
        """Write what there is, again and again."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what there is. A disk that takes nothing is told of once; what does not fit in memory is counted."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        try:
            await asyncio.to_thread(self._write, noted, self._lost)
        except OSError as error:
            self._noted = noted + self._noted
            if not self._is_broken:
                self._is_broken = True
                logger.error("The audit log cannot be written: %s; trying again.", error, extra={"action": "no_audit"})
        else:
            self._is_broken = False
            self._lost = 0

    def _write(self, noted: list[TaskLine], lost: int) -> None:
        lines = [self._encoder.encode(line) for line in noted]
        if lost:
            about = {"time": time.time(), "event": "lines_lost", "pool": self._pool, "count": lost}
            lines.append(self._encoder.encode(about))
        self._file.append(b"\n".join([*lines, b""]))

    def _lines(self, at: float, held: Held, results: Sequence[TaskResult]) -> Iterator[TaskLine]:
        functions, places = held.functions_of(list(results))
        for number, result in enumerate(results):
            yield TaskLine(
                time=at,
                event=TASK_ENDED,
                task_id=task_id(held.address.bundle, result.index),
                principal=held.address.principal,
                function_id=functions[places[number] if places else 0],
                endpoint_id=self._endpoint,
                pool=self._pool,
                host=self._host,
                user=self._user,
                state=result.state,
                error="" if result.state == "succeeded" else _error_type(result.value),
                submitted_at=held.stored_at,
                taken_at=result.taken_at,
                started_at=result.started_at,
                ended_at=result.ended_at,
                attempts=result.attempts,
                worker=result.worker,
            )


def audit_line(event: str, **about: Any) -> bytes:
    """A line of a manager about something else than a task."""
    return msgspec.json.encode({"time": time.time(), "event": event, **about}) + b"\n"


def local_user() -> str:
    """The name of the user whom this process runs as, or its number where it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _error_type(value: bytes) -> str:
    try:
        return decode_failure(value).type_path
    except DecodeError:
        return "unknown"
