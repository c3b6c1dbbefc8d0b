"""What a watcher remembers over its death: which versions of files it has announced, and what is not published yet.

A version is noted and its event put into the outbox in one transaction, which is on disk before anything else happens.
So whoever is killed at whatever moment has announced a version, event and all, or has not. An event leaves the outbox
when the service has stored it; one that was stored and did not leave is published again under the same id.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from headrace.endpoint.errors import JournalUnusable
from headrace.endpoint.watch.completeness import Seen

FORGOTTEN_AFTER_S: Final = 30 * 86_400.0
"""How long a file that is gone is remembered: longer than the results of what its event ran."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS folders (
    name TEXT PRIMARY KEY, path TEXT NOT NULL, known INTEGER NOT NULL DEFAULT 0,
    announced INTEGER NOT NULL DEFAULT 0, last_path TEXT, last_at REAL);
CREATE TABLE IF NOT EXISTS files (
    folder TEXT NOT NULL, directory BLOB NOT NULL, name BLOB NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, marker_ns INTEGER,
    version INTEGER NOT NULL, device TEXT NOT NULL, gone_at REAL,
    PRIMARY KEY (folder, directory, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, bus TEXT NOT NULL, event BLOB NOT NULL, refusal TEXT);
CREATE INDEX IF NOT EXISTS waiting ON outbox (bus) WHERE refusal IS NULL;
CREATE INDEX IF NOT EXISTS refused ON outbox (number) WHERE refusal IS NOT NULL;
PRAGMA user_version = 1;
"""


class Known(NamedTuple):
    """What is remembered of a file."""

    seen: Seen
    marker_ns: int | None
    version: int
    """How many versions were announced; 0 when only its being there was noted."""
    device: str
    is_gone: bool


class Noted(NamedTuple):
    """A version of a file that is noted, with the event about it, if there is to be one. Paths are below the folder."""

    path: str
    seen: Seen
    marker_ns: int | None
    version: int
    event: bytes | None
    is_gone: bool = False


class Standing(NamedTuple):
    """How a folder stands."""

    announced: int
    last_path: str | None
    last_at: float | None


class Waiting(NamedTuple):
    """An event that is not published yet."""

    number: int
    event: bytes


class Journal:
    """One file, for one process: threads may share it. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Open it. Raises `JournalUnusable`."""
        handle = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.close(handle)
        self._base = sqlite3.connect(self._path, timeout=0.5, isolation_level=None, check_same_thread=False)
        try:
            # Alone, it needs no memory that is shared with others, which network file systems do not have.
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.executescript(_TABLES)
        except sqlite3.Error as error:
            self._base.close()
            raise self._unusable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._base.close()

    def _unusable(self, error: sqlite3.Error) -> JournalUnusable:
        if "locked" in str(error):
            return JournalUnusable(f"{self._path} is in use: another watcher of the same name runs already")
        return JournalUnusable(
            f"{self._path} cannot be used: {error}; if it is damaged, move it away: files that are there are then "
            "announced again under the ids that they had, so what ran in the last two weeks does not run again"
        )

    def begin_folder(self, folder: str, path: str) -> bool:
        """Whether all files of the folder were seen once. What is remembered of another path by this name is
        dropped."""
        with self._transaction() as base:
            row = base.execute("SELECT path, known FROM folders WHERE name = ?", (folder,)).fetchone()
            if row is not None and row[0] == path:
                return bool(row[1])
            base.execute("DELETE FROM files WHERE folder = ?", (folder,))
            base.execute("INSERT OR REPLACE INTO folders (name, path) VALUES (?, ?)", (folder, path))
        return False

    def all_known(self, folder: str) -> None:
        """Note that all files of the folder have been seen once."""
        with self._transaction() as base:
            base.execute("UPDATE folders SET known = 1 WHERE name = ?", (folder,))

    def known(self, folder: str, directory: str) -> dict[str, Known]:
        """What is remembered of the files of one directory, by name."""
        rows = self._rows(
            "SELECT name, size, mtime_ns, inode, marker_ns, version, device, gone_at FROM files"
            " WHERE folder = ? AND directory = ?",
            (folder, os.fsencode(directory)),
        )
        return {os.fsdecode(row[0]): _known(row[1:]) for row in rows}

    def known_file(self, folder: str, path: str) -> Known | None:
        """What is remembered of one file."""
        rows = self._rows(
            "SELECT size, mtime_ns, inode, marker_ns, version, device, gone_at FROM files"
            " WHERE folder = ? AND directory = ? AND name = ?",
            (folder, *_parts(path)),
        )
        return _known(rows[0]) if rows else None

    def directories(self, folder: str) -> list[str]:
        """The directories of a folder in which files are remembered that are not gone."""
        rows = self._rows("SELECT DISTINCT directory FROM files WHERE folder = ? AND gone_at IS NULL", (folder,))
        return [os.fsdecode(row[0]) for row in rows]

    def seen_elsewhere(self, folder: str, device: str) -> str | None:
        """The file system on which files of a folder were seen, when it is not this one for any of them."""
        rows = self._rows(
            "SELECT DISTINCT device FROM files WHERE folder = ? AND gone_at IS NULL ORDER BY device = ? DESC LIMIT 1",
            (folder, device),
        )
        return rows[0][0] if rows and rows[0][0] != device else None

    def note(self, folder: str, bus: str, device: str, noted: Sequence[Noted]) -> None:
        """Remember these versions and put their events into the outbox: all of it, or nothing."""
        now = time.time()
        events = [each for each in noted if each.event is not None]
        with self._transaction() as base:
            base.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (folder, *_parts(each.path), *each.seen, each.marker_ns, each.version, device, _gone(each, now))
                    for each in noted
                ],
            )
            base.executemany("INSERT INTO outbox (bus, event) VALUES (?, ?)", [(bus, each.event) for each in events])
            if events:
                base.execute(
                    "UPDATE folders SET announced = announced + ?, last_path = ?, last_at = ? WHERE name = ?",
                    (len(events), os.fsencode(events[-1].path).decode(errors="replace"), now, folder),
                )

    def forget_gone(self, folder: str) -> None:
        """Drop what is remembered of files that have been gone for long."""
        with self._transaction() as base:
            base.execute(
                "DELETE FROM files WHERE folder = ? AND gone_at < ?", (folder, time.time() - FORGOTTEN_AFTER_S)
            )

    def standing(self, folder: str) -> Standing:
        """How many events of the folder there were, and which was the last."""
        rows = self._rows("SELECT announced, last_path, last_at FROM folders WHERE name = ?", (folder,))
        return Standing(*rows[0]) if rows else Standing(0, None, None)

    def buses_waiting(self) -> list[str]:
        """The buses that events wait for."""
        return [row[0] for row in self._rows("SELECT DISTINCT bus FROM outbox WHERE refusal IS NULL ORDER BY bus")]

    def waiting(self, bus: str, most: int, most_bytes: int) -> list[Waiting]:
        """The first events that wait for a bus: so many, and so many bytes, but at least one."""
        found: list[Waiting] = []
        size = 0
        for number, event in self._rows(
            "SELECT number, event FROM outbox WHERE bus = ? AND refusal IS NULL ORDER BY number LIMIT ?", (bus, most)
        ):
            size += len(event) + 1
            if found and size > most_bytes:
                break
            found.append(Waiting(number, event))
        return found

    def published(self, numbers: Sequence[int]) -> None:
        """These events are stored by the service."""
        with self._transaction() as base:
            base.executemany("DELETE FROM outbox WHERE number = ?", [(number,) for number in numbers])

    def refused(self, number: int, why: str) -> None:
        """The service does not take this event. It stays, and is tried again when the watcher starts again."""
        with self._transaction() as base:
            base.execute("UPDATE outbox SET refusal = ? WHERE number = ?", (why, number))

    def try_refused_again(self) -> None:
        """Let events that were refused wait like others."""
        with self._transaction() as base:
            base.execute("UPDATE outbox SET refusal = NULL WHERE refusal IS NOT NULL")

    def counts(self) -> tuple[int, int, str | None]:
        """How many events wait, how many were refused, and why the last one was."""
        waiting = self._rows("SELECT COUNT(*) FROM outbox WHERE refusal IS NULL")[0][0]
        refused = self._rows("SELECT COUNT(*) FROM outbox WHERE refusal IS NOT NULL")[0][0]
        why = self._rows("SELECT refusal FROM outbox WHERE refusal IS NOT NULL ORDER BY number DESC LIMIT 1")
        return waiting, refused, why[0][0] if why else None

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            return self._base.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already.
                with contextlib.suppress(sqlite3.Error):
                    self._base.execute("ROLLBACK")
                raise


def _known(row: Sequence[Any]) -> Known:
    size, mtime_ns, inode, marker_ns, version, device, gone_at = row
    return Known(Seen(size, mtime_ns, inode), marker_ns, version, device, gone_at is not None)


def _gone(noted: Noted, now: float) -> float | None:
    return now if noted.is_gone else None


def _parts(path: str) -> tuple[bytes, bytes]:
    directory, _, name = path.rpartition("/")
    return os.fsencode(directory), os.fsencode(name)
