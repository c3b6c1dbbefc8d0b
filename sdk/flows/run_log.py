"""The log of a run: a file with a JSON object in each line, for people and programs, and for whoever resumes the run.

An entry is what the Flows service has in a run's log (`time`, `code`, `description`, `details`), and beside it what is
needed to go on from there (`resume`). `details` leaves out what is private; `resume` cannot, so the file is readable by
its owner only. Each entry is on the disk before what it announces is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from headrace.bus.installation.private_files import sync_directory
from headrace.sdk.flows.errors import RunLogUnusable
from headrace.sdk.flows.timestamps import moment, timestamp

VERSION: Final = 1
"""The form of `resume` that this release writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened. `at` is in seconds since 1970."""

    code: str
    description: str
    details: dict[str, Any] = field(default_factory=dict)
    resume: dict[str, Any] | None = field(default=None, repr=False)
    at: float = field(default_factory=time.time)

    def document(self) -> dict[str, Any]:
        """As the Flows service shows it: without what only a resumption needs."""
        return {
            "time": timestamp(self.at),
            "code": self.code,
            "description": self.description,
            "details": self.details,
        }

    def encode(self) -> bytes:
        """The entry's line."""
        document = self.document() if self.resume is None else {**self.document(), "resume": self.resume}
        # Half of a surrogate pair is a text of JSON, too.
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Entry:
        """An entry from its line. Raises `ValueError`."""
        document = json.loads(line)
        at = moment(document["time"])
        if at is None or not isinstance(document["details"], dict):
            raise ValueError("no entry of a run log")
        return cls(
            code=document["code"],
            description=document["description"],
            details=document["details"],
            resume=document.get("resume"),
            at=at.timestamp(),
        )


class RunLog:
    """A log that is open for this process alone."""

    def __init__(self, path: Path, handle: int, entries: Sequence[Entry]) -> None:
        self.path = path
        self.entries = tuple(entries)
        """What was there when it was opened."""
        self._handle = handle

    @classmethod
    def open(cls, path: Path, *, existing: bool = False) -> RunLog:
        """Open a log, or make one; `existing`: it must be there. Raises `RunLogUnusable`."""
        flags = os.O_RDWR | os.O_APPEND | (0 if existing else os.O_CREAT)
        try:
            if not existing:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, flags, 0o600)
        except FileNotFoundError:
            raise RunLogUnusable(f"there is no run log {path}") from None
        except OSError as error:
            raise RunLogUnusable(f"the run log {path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log = cls(path, handle, _read(path, handle))
            if not log.entries:
                sync_directory(path.parent)
            return log
        except BlockingIOError:
            os.close(handle)
            raise RunLogUnusable(f"another process goes on with the run of {path}") from None
        except BaseException:
            os.close(handle)
            raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and let others have it."""
        os.close(self._handle)

    def append(self, entry: Entry) -> None:
        """Write an entry; it is on the disk when this returns. Raises `RunLogUnusable`."""
        line = entry.encode()
        try:
            while line:
                line = line[os.write(self._handle, line) :]
            os.fsync(self._handle)
        except OSError as error:
            raise RunLogUnusable(f"the run log {self.path} cannot be written: {error.strerror}") from error


def read_log(path: Path) -> list[Entry]:
    """The entries of a log that somebody else may be writing to. Raises `RunLogUnusable`."""
    try:
        return _entries(path, path.read_bytes())
    except OSError as error:
        raise RunLogUnusable(f"the run log {path} cannot be read: {error.strerror}") from None


def _read(path: Path, handle: int) -> list[Entry]:
    """The entries of a log. What a crash left of a last line is cut off."""
    with open(handle, "rb", closefd=False) as file:
        content = file.read()
    entries = _entries(path, content)
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.ftruncate(handle, whole)
    return entries


def _entries(path: Path, content: bytes) -> list[Entry]:
    """The entries of all lines that are whole."""
    entries = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            entries.append(Entry.decode(line))
        except (ValueError, KeyError, TypeError):
            raise RunLogUnusable(f"{path}, line {number}: this is no entry of a run log") from None
    if content and not entries and b"resume" not in content:
        raise RunLogUnusable(f"{path} is no run log")
    return entries


@dataclass(slots=True)
class Position:
    """Where a run is: what its log says of it."""

    run: dict[str, Any]
    """What the run was started with: `run_id`, `definition`, `label` …"""
    state: str | None
    """The state that is entered next, or that is under way."""
    data: Any
    flight: dict[str, Any] | None = None
    """What the state that is under way needs: `since`, and of an action `request`, `action_id`, `status`."""
    unreleased: list[dict[str, Any]] = field(default_factory=list)
    """Actions that have ended and are still to be released."""
    failure: dict[str, Any] | None = None
    """The exception that nobody caught."""
    end: str | None = None
    """The code of the last entry, when the run has ended."""

    @classmethod
    def of(cls, entries: Sequence[Entry], path: Path) -> Position:
        """The position at the end of a log. Raises `RunLogUnusable`."""
        if not entries or entries[0].code != "FlowStarted" or not isinstance(entries[0].resume, dict):
            raise RunLogUnusable(f"{path} does not begin with the start of a run")
        run = entries[0].resume
        if run.get("version") != VERSION:
            raise RunLogUnusable(f"{path} was written by another release of Headrace, which has to go on with it")
        position = cls(run=run, state=run["next"], data=run["data"])
        with _understood(path):
            for entry in entries[1:]:
                position.take(entry)
        return position

    def take(self, entry: Entry) -> None:
        """Go on by one entry of the log."""
        resume = entry.resume or {}
        if entry.code in ("FlowSucceeded", "FlowFailed", "FlowCanceled"):
            self.end = entry.code
        elif entry.code == "ActionPolled" and self.flight is not None:
            self.flight |= resume
        elif entry.code == "ActionReleased":
            self.unreleased = [each for each in self.unreleased if each["action_id"] != resume["action_id"]]
        elif entry.code == "FlowResumed" and self.flight is not None:
            # While it was INACTIVE its time did not run.
            self.flight["since"] = entry.at if resume.get("was_inactive") else self.flight["since"]
        elif entry.code.endswith("Started"):
            self.flight = {"since": entry.at, **resume}
        elif entry.code.endswith(("Completed", "Failed")):
            self.state, self.data, self.flight = resume["next"], resume["data"], None
            self.failure = resume.get("failure")
            if resume.get("release"):
                self.unreleased.append(resume["release"])


@contextlib.contextmanager
def _understood(path: Path) -> Any:
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise RunLogUnusable(f"{path} is damaged: an entry has not what it should have ({error})") from None
