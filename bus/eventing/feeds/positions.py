"""Where a feed goes on in its stream: a durable consumer, made anew where somebody left messages in the middle.

What a consumer has given and nobody has acked it gives again half a minute later, behind newer messages. So whoever
begins to read, and finds that there is such a thing, makes another consumer that begins behind the last message up to
which all are acked. It is made before the old one goes, under the other of two names: whatever dies in between, the
later of the two is right. One process reads at a time, which the feed's lease sees to.

Of what was given and not acked some may be stored. The bus knows a repeated event by itself for two minutes; for what
comes later, the ids of its newest events are read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.errors import StreamMissing
from headrace.bus.eventing.events import MESSAGE_ID_HEADER
from headrace.bus.eventing.feeds.models import FeedRecord
from headrace.bus.eventing.subscriptions import last_sequence
from headrace.bus.names import bus_events, event_stream
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import delete_consumer, ensure_consumer

MOST_IN_HAND: Final = 1000

_ACK_WAIT_S = 30.0
_INACTIVE_S = 30 * 86_400.0
_NEWEST = 50_000
_PAGE = 500
_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Position:
    """The consumer to read from, which is there and has given nothing that is not acked. Messages up to `doubtful` may
    have been given, and stored, before."""

    consumer: str
    doubtful: int = 0


async def position(other: Connection, feed: FeedRecord) -> Position:
    """Where to go on. Raises `BusError`: the credential does not allow it, or there is no such stream."""
    found = {name: info for name in feed.consumers if (info := await _info(other, feed.stream, name)) is not None}
    if not found:
        await _make(other, feed, feed.consumers[0], {"deliver_policy": feed.start})
        return Position(feed.consumers[0])
    latest = max(found, key=lambda name: str(found[name]["created"]))
    for older in found.keys() - {latest}:
        await delete_consumer(other, feed.stream, older)
    if not found[latest]["num_ack_pending"]:
        return Position(latest)
    (following,) = (name for name in feed.consumers if name != latest)
    floor = int(found[latest]["ack_floor"]["stream_seq"])
    await _make(other, feed, following, {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1})
    await delete_consumer(other, feed.stream, latest)
    return Position(following, int(found[latest]["delivered"]["stream_seq"]))


async def stored_ids(connection: Connection, bus: str) -> frozenset[str]:
    """The message ids of the newest events of a bus, 50 000 at most. Raises `BusUnavailable`."""
    last = await last_sequence(connection, bus=bus)
    at = max(1, last - _NEWEST + 1)
    known: set[str] = set()
    while at <= last:
        query = {"seq": at, "next_by_subj": bus_events(bus), "batch": _PAGE, "max_bytes": _PAGE_BYTES}
        messages, _ = await connection.read_many(event_stream(bus), query)
        known.update(message.headers.get(MESSAGE_ID_HEADER, "") for message in messages)
        if not messages:
            break
        at = messages[-1].sequence + 1
    return frozenset(known)


async def forget_position(other: Connection, feed: FeedRecord) -> None:
    """Remove what the feed has at the other server. Raises `BusError`."""
    for name in feed.consumers:
        await delete_consumer(other, feed.stream, name)


async def _info(other: Connection, stream: str, consumer: str) -> Mapping[str, Any] | None:
    try:
        return await other.api(f"CONSUMER.INFO.{stream}.{consumer}")
    except StreamMissing:
        return None


async def _make(other: Connection, feed: FeedRecord, consumer: str, begin: dict[str, Any]) -> None:
    await ensure_consumer(
        other,
        feed.stream,
        consumer,
        filter_subjects=feed.subjects,
        ack_wait_s=_ACK_WAIT_S,
        max_ack_pending=MOST_IN_HAND,
        options={**begin, "inactive_threshold": int(_INACTIVE_S * 1e9)},
    )
