"""Stored events found again: by their sequence, by source and id, and the newest first.

A sequence is a direct read. Of source and id there is no index, since one would cost every publisher a write: the bus
is read from its end, comparing the server's message ids, so that what was published of late is found at once, and
nothing is decoded on the way. How far one call looks is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from headrace.bus.eventing.arrivals import Arrived
from headrace.bus.eventing.events import MESSAGE_ID_HEADER, message_id_of
from headrace.bus.filters import Filter
from headrace.bus.names import bus_events, event_stream
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection

MOST_LOOKED_AT: Final = 50_000
"""Events that one call goes through at most; another one goes on where it ended."""

_WINDOW = 500
_WIDEST = 100_000
_PAGE = 500
_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Newest:
    """What was found, newest first. `next`: only events before this sequence are left to be looked at; None: none."""

    events: list[Arrived] = field(default_factory=list)
    looked_at: int = 0
    next: int | None = None


async def event_at(connection: Connection, bus: str, sequence: int) -> Arrived | None:
    """The event of a bus under this sequence, if the bus holds it (still). Raises `BusUnavailable`."""
    query = {"seq": sequence, "next_by_subj": bus_events(bus), "batch": 1}
    messages, _ = await connection.read_many(event_stream(bus), query)
    return Arrived.of(messages[0]) if messages and messages[0].sequence == sequence else None


async def find_event(
    connection: Connection,
    bus: str,
    source: str,
    event_id: str,
    *,
    subject: str | None = None,
    most: int = MOST_LOOKED_AT,
) -> Arrived | None:
    """The event with this source and id, the newest if there are several, among the newest `most` of the bus.

    `subject` (that of its type) leaves all others out. Raises `BusUnavailable`.
    """
    wanted, looked_at = message_id_of(source, event_id, bus), 0
    async for window in _windows(connection, bus, first=1, before=None):
        found = None
        async for messages in _pages(connection, bus, subject or bus_events(bus), window):
            looked_at += len(messages)
            for message in messages:
                if message.headers.get(MESSAGE_ID_HEADER, wanted) == wanted:
                    arrived = Arrived.of(message)
                    if arrived.event is not None and (arrived.event.source, arrived.event.id) == (source, event_id):
                        found = arrived
            window.seen += len(messages)
        if found is not None or looked_at >= most:
            return found
    return None


async def newest_events(
    connection: Connection,
    bus: str,
    wanted: Filter | None = None,
    *,
    limit: int,
    subject: str | None = None,
    first: int = 1,
    before: int | None = None,
    most: int = MOST_LOOKED_AT,
) -> Newest:
    """The newest events of a bus that a filter lets pass, from `first` on and before a sequence.

    `subject` (that of a type, or a pattern) leaves all others out. Raises `BusUnavailable`.
    """
    found = Newest()
    async for window in _windows(connection, bus, first=first, before=before):
        kept: deque[Arrived] = deque(maxlen=limit - len(found.events) + 1)
        async for messages in _pages(connection, bus, subject or bus_events(bus), window):
            window.seen += len(messages)
            for arrived in map(Arrived.of, messages):
                if arrived.event is not None and (wanted is None or wanted.matches(arrived.event)):
                    kept.append(arrived)
        found.looked_at += window.seen
        found.events += [*reversed(kept)][: limit - len(found.events)]
        if len(found.events) == limit or found.looked_at >= most:
            # One more was kept than is shown: where there is none, nothing is left of this window.
            left = found.events[-1].sequence if len(kept) == kept.maxlen else window.start
            found.next = left if left > window.floor else None
            return found
    return found


@dataclass(slots=True)
class _Window:
    """Sequences from `start` to before `end`; the last window begins at `floor`. `seen`: messages found in it."""

    start: int
    end: int
    floor: int
    seen: int = 0


async def _windows(connection: Connection, bus: str, *, first: int, before: int | None) -> AsyncIterator[_Window]:
    """The stream of a bus from its end: it can only be read forwards, so in windows, wider while there is little in
    them."""
    state = (await connection.api(f"STREAM.INFO.{event_stream(bus)}"))["state"]
    floor, end = max(first, int(state["first_seq"]), 1), int(state["last_seq"]) + 1
    end = end if before is None else min(end, before)
    width = _WINDOW
    while end > floor:
        window = _Window(max(end - width, floor), end, floor)
        yield window
        end = window.start
        width = _WINDOW if window.seen >= _WINDOW // 2 else min(width * 2, _WIDEST)


async def _pages(connection: Connection, bus: str, subject: str, window: _Window) -> AsyncIterator[list[StoredMessage]]:
    start, pending = window.start, 1
    while pending and start < window.end:
        query = {"seq": start, "next_by_subj": subject, "batch": _PAGE, "max_bytes": _PAGE_BYTES}
        page, pending = await connection.read_many(event_stream(bus), query)
        if not page:
            return
        start = page[-1].sequence + 1
        yield [message for message in page if message.sequence < window.end]
