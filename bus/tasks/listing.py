"""Lists of tasks, page by page, with bounded work for each page however much is stored, and without any effect.

First comes what has no result yet, latest stored first; then what has ended, latest ended first. So both are read from
the end of their stream, TASKS and RESULTS, towards its beginning. The server only reads forwards, from a sequence on: a
stretch before the place where the last one began is read, and the next one is longer if that gave little.

    short stretches    unfiltered: costs what the stretch holds (5 ms for 256 messages, however long the stream is)
    long stretches     filtered by the server: costs what its index has from there to the end of the stream (4 ms for
                       4 000 subjects, 150 ms for 300 000)

A page looks at so many sequences and bytes at most. When that is used up before the page is full it is given short,
even empty, with the marker at which the next one goes on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from headrace.bus.errors import BusError, BusUnavailable
from headrace.bus.keys import KeyRing
from headrace.bus.names import SINKS, token
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import STATES
from headrace.bus.tasks.task_views import TaskView, ended_tasks, marked_task, queued_tasks

UNFINISHED: Final = frozenset({"pending", "running"})

_FIRST_STRETCH = 256
_LONGEST_UNFILTERED = 1024
_GROWTH = 8
_MOST_SEQUENCES = 300_000
_MOST_BYTES = 16 * 1024 * 1024
_READ_BYTES = 4 * 1024 * 1024
_PATTERNS_AT_ONCE = 128
_MARKER = re.compile(r"([qr])(\d{1,19})-(\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Whose tasks, and which of them. `since` (unix seconds): stored or, for what has ended, ended then or later."""

    principal: str | None
    """None is everybody: for the owner of an endpoint."""
    states: frozenset[str] = frozenset(STATES)
    endpoint: UUID | None = None
    function: UUID | None = None
    group: UUID | None = None
    since: float = 0.0

    @property
    def task_subjects(self) -> str:
        """The pattern of the subjects under which their bundles may be queued."""
        return f"task.{_hex(self.endpoint)}.*.{self._who}.{_hex(self.group)}.*"

    @property
    def result_subjects(self) -> str:
        """The pattern of the subjects under which their results may be."""
        return f"result.{_hex(self.endpoint)}.{self._who}.{_hex(self.group)}.*.*"

    @property
    def _who(self) -> str:
        return "*" if self.principal is None else token(self.principal)

    def accepts(self, view: TaskView) -> bool:
        """Whether a task under one of these subjects is wanted."""
        if view.address.endpoint == SINKS:
            return False  # an attempt to deliver by HTTP: no task, though its end is stored as that of one
        return view.state in self.states and (self.function is None or view.function == self.function)


@dataclass(frozen=True, slots=True)
class Marker:
    """Where a page begins: in TASKS (`q`) or RESULTS (`r`), at a sequence, behind so many tasks of that message."""

    kind: str
    sequence: int
    behind: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.sequence}-{self.behind}"

    @classmethod
    def of_text(cls, text: str) -> Marker:
        """Raises `ValueError` for a text that is not a marker."""
        form = _MARKER.fullmatch(text)
        if form is None:
            raise ValueError(f"{text[:40]!r} is not a marker that a page gave")
        return cls(form[1], int(form[2]), int(form[3]))


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some tasks, and where the next ones are; None when there are no more."""

    tasks: list[TaskView]
    marker: Marker | None


async def list_tasks(
    connection: Connection, key_ring: KeyRing, query: TaskQuery, *, limit: int, marker: Marker | None = None
) -> TaskPage:
    """A page of at most `limit` tasks. A task that ends between two pages may be on both; it is on one at least.

    Raises `BusUnavailable`.
    """
    page = _Page(query, limit)
    if query.states & UNFINISHED and (marker is None or marker.kind == "q"):
        walk = _Walk(connection, "TASKS", query.task_subjects, query.since)
        await page.fill(walk, marker, lambda messages: _unfinished(connection, key_ring, messages))
        if page.marker is not None:
            return page.done()
        marker = None
    if query.states - UNFINISHED:
        # Only now is the end of RESULTS looked at: what left the queue meanwhile is there, and nothing is missed.
        walk = _Walk(connection, "RESULTS", query.result_subjects, query.since)
        await page.fill(walk, marker, lambda messages: _ended(key_ring, messages))
    return page.done()


Views = Callable[[list[StoredMessage]], Awaitable[list[list[TaskView | None]]]]


class _Page:
    """A page while it is filled."""

    def __init__(self, query: TaskQuery, limit: int) -> None:
        self._query = query
        self._limit = limit
        self._tasks: dict[UUID, TaskView] = {}
        self.marker: Marker | None = None

    async def fill(self, walk: _Walk, marker: Marker | None, views_of: Views) -> None:
        """Take tasks from a stream, from its end or the marker, until the page is full or the walk may not go on."""
        await walk.begin(marker.sequence if marker else None)
        behind = marker.behind if marker else 0
        while not walk.ended:
            messages = await walk.read()
            for message, views in zip(messages, await views_of(messages), strict=True):
                skipped = behind if marker and message.sequence == marker.sequence else 0
                for number, view in enumerate(views[skipped:], skipped):
                    if len(self._tasks) >= self._limit:
                        self.marker = Marker(walk.kind, message.sequence, number)
                        return
                    if view is not None and self._query.accepts(view):
                        # Seen unfinished a moment ago, and now with its result: that counts.
                        self._tasks[view.task_id] = view
            if walk.spent and not walk.ended:
                self.marker = Marker(walk.kind, walk.position)
                return

    def done(self) -> TaskPage:
        """The page."""
        return TaskPage(list(self._tasks.values()), self.marker)


class _Walk:
    """Reads what fits a pattern, in stretches, from the end of a stream (or a place in it) towards its beginning."""

    def __init__(self, connection: Connection, stream: str, pattern: str, since: float) -> None:
        self._connection = connection
        self._stream = stream
        self._pattern = pattern
        self._tokens = pattern.split(".")
        self._since = since
        self._stretch = _FIRST_STRETCH
        self._sequences = 0
        self._most_sequences: float = _MOST_SEQUENCES
        self._bytes = 0
        self._first = 1
        self.kind = "q" if stream == "TASKS" else "r"
        self.position = 0
        """The sequence up to which nothing has been read yet."""

    async def begin(self, position: int | None) -> None:
        """Learn where the stream begins and ends."""
        state = (await self._connection.api(f"STREAM.INFO.{self._stream}"))["state"]
        if not state["messages"]:
            return
        self._first = state["first_seq"]
        if self._since:
            begin = datetime.fromtimestamp(self._since, UTC).isoformat()
            later, _ = await self._connection.read_many(self._stream, {"start_time": begin, "batch": 1})
            if not later:
                return
            self._first = later[0].sequence
        self._most_sequences = _MOST_SEQUENCES if state["messages"] > _MOST_SEQUENCES else math.inf
        self.position = state["last_seq"] if position is None else min(position, state["last_seq"])
        mean_bytes = state["bytes"] / state["messages"]
        self._stretch = max(1, min(_FIRST_STRETCH, int(_READ_BYTES / 2 / max(1.0, mean_bytes))))

    @property
    def ended(self) -> bool:
        """Whether the beginning (or `since`) has been reached."""
        return self.position < self._first

    @property
    def spent(self) -> bool:
        """Whether this page has read as much as one may."""
        return self._sequences >= self._most_sequences or self._bytes >= _MOST_BYTES

    async def read(self) -> list[StoredMessage]:
        """What fits in the next stretch, latest first."""
        while True:
            begin = max(self._first, self.position - self._stretch + 1)
            query: dict[str, Any] = {"seq": begin, "max_bytes": _READ_BYTES}
            query["batch"] = min(self._stretch, _LONGEST_UNFILTERED)
            if self._stretch > _LONGEST_UNFILTERED:
                query["next_by_subj"] = self._pattern
            messages, more = await self._connection.read_many(self._stream, query)
            size = sum(len(message.data) for message in messages)
            self._bytes += size
            if not more or not messages or messages[-1].sequence >= self.position:
                break
            # Too much for one reading, which began at the wrong end of it.
            self._stretch = max(1, self._stretch // _GROWTH)
        fitting = [message for message in messages if message.sequence <= self.position and self._fits(message)]
        self._sequences += self.position - begin + 1
        self.position = begin - 1
        if len(fitting) * 4 < _FIRST_STRETCH and size * 2 < _READ_BYTES:
            self._stretch *= _GROWTH
        return fitting[::-1]

    def _fits(self, message: StoredMessage) -> bool:
        tokens = message.subject.split(".")
        return len(tokens) == len(self._tokens) and all(
            wanted in ("*", found) for wanted, found in zip(self._tokens, tokens, strict=True)
        )


async def _ended(key_ring: KeyRing, messages: Iterable[StoredMessage]) -> list[list[TaskView | None]]:
    return [list[TaskView | None](ended_tasks(key_ring, [message]).values())[::-1] for message in messages]


async def _unfinished(
    connection: Connection, key_ring: KeyRing, messages: Iterable[StoredMessage]
) -> list[list[TaskView | None]]:
    """The tasks of queued bundles, with the marks of those that run; None in the place of one that has a result."""
    bundles = [list(queued_tasks(key_ring, [message]).values())[::-1] for message in messages]
    addresses = [views[0].address for views in bundles if views]
    results = [address.result_subject(0).rpartition(".")[0] + ".*" for address in addresses]
    marks = [address.started_subject(0).rpartition(".")[0] + ".*" for address in addresses]
    # The marks first: what ends in between shows among the results.
    marked_at = {marked_task(message): message.stored_at for message in await _under(connection, "PROGRESS", marks)}
    finished = ended_tasks(key_ring, await _under(connection, "RESULTS", results))
    return [
        [
            None if view.task_id in finished else replace(view, marked_at=marked_at.get(view.task_id, 0.0))
            for view in views
        ]
        for views in bundles
    ]


async def _under(connection: Connection, stream: str, patterns: Sequence[str]) -> list[StoredMessage]:
    """All that is stored under these patterns, each of which few subjects fit, in the order of storing."""
    messages: list[StoredMessage] = []
    for place in range(0, len(patterns), _PATTERNS_AT_ONCE):
        messages += await _under_some(connection, stream, patterns[place : place + _PATTERNS_AT_ONCE])
    return messages


async def _under_some(connection: Connection, stream: str, patterns: Sequence[str]) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    start, more = 1, 1
    while more:
        query = {"multi_last": list(patterns), "seq": start, "max_bytes": _READ_BYTES}
        try:
            page, more = await connection.read_many(stream, query)
        except BusUnavailable:
            raise
        except BusError:
            # More subjects than the server gives in one answer (1 024).
            if len(patterns) > 1:
                half = len(patterns) // 2
                first = await _under_some(connection, stream, patterns[:half])
                return first + await _under_some(connection, stream, patterns[half:])
            page, more = await connection.read_many(
                stream, {"seq": start, "next_by_subj": patterns[0], "batch": 1000, "max_bytes": _READ_BYTES}
            )
        if not page:
            break
        messages += page
        start = page[-1].sequence + 1
    return messages


def _hex(wanted: UUID | None) -> str:
    return wanted.hex if wanted else "*"
