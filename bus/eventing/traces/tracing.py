"""Traces: for one event, which subscriptions it met, and what became of each delivery that came of it.

Subscriptions are read page by page from their table, and their filters are evaluated once more on the stored event;
what follows is looked up by ids (`stories`). Of an event that the bus has forgotten the filters cannot say anything,
but the ids still lead to its deliveries, for as long as their results and dead letters are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from headrace.bus.errors import EndpointNotAllowed, FilterInvalid, InputFailed
from headrace.bus.eventing.arrivals import Arrived
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.places import compile_places
from headrace.bus.eventing.replays.models import ReplayRecord
from headrace.bus.eventing.subscriptions import SubscriptionRecord, whole_filter
from headrace.bus.eventing.traces.announced import Announced, find_joined
from headrace.bus.eventing.traces.batches import tell_batches
from headrace.bus.eventing.traces.stories import Story, tell_stories
from headrace.bus.filters import Explanation, compile_filter
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record, Records

_PAGE: Final = 200
_MOST_PLACES: Final = 20


@dataclass(frozen=True, slots=True)
class Traced:
    """The event of a trace: as it is stored, or what names it where the bus holds it no more (`sequence` is 0 then)."""

    bus: str
    source: str
    event_id: str
    arrived: Arrived | None = None

    @property
    def sequence(self) -> int:
        """Its place on the bus; 0 when it is not known."""
        return 0 if self.arrived is None else self.arrived.sequence


@dataclass(slots=True)
class Tried:
    """One subscription that the event met. `matched` is None when that cannot be said any more."""

    record: SubscriptionRecord
    matched: bool | None
    explanation: Explanation | None = None
    stories: list[Story] = field(default_factory=list)
    is_part: bool = False
    """Whether it does not go to the function itself, but joins others."""
    joined: Announced | None = None
    """The event in which it did, or which tells that nobody came."""


@dataclass(slots=True)
class Trace:
    """What followed from an event, as far as this page goes. `passed_over` subscriptions did not match, and are not
    shown; `next` is where the next page begins, None when this is the last."""

    tried: list[Tried] = field(default_factory=list)
    passed_over: int = 0
    next: int | None = None


async def trace(
    connection: Connection,
    keys: KeyRing,
    subscriptions: Records[SubscriptionRecord],
    event: Traced,
    *,
    is_visible: Callable[[SubscriptionRecord], bool],
    explain: bool = False,
    limit: int = 50,
    start: int = 1,
    replays: Sequence[ReplayRecord] = (),
) -> Trace:
    """Follow an event to the visible subscriptions, `limit` of them at most, from a place in their table on; and to
    these replays, those with a target of their own on the first page.

    With `explain` those that did not match are shown as well, and why. Raises `BusUnavailable`.
    """
    found = Trace()
    replays = [each for each in replays if _reached(each, event)]
    if start == 1:
        owns = [each.own for each in replays if each.own is not None]
        found.tried = [tried for own in owns if (tried := _try(own, event, explain=explain)).matched is not False]
        limit += len(found.tried)
    async for page in subscriptions.pages(start=start, size=_PAGE):
        for row in page:
            if not _met(row.value, event, replays) or not is_visible(row.value):
                continue
            tried = _try(row.value, event, explain=explain)
            if tried.matched is False and not explain:
                found.passed_over += 1
                continue
            found.tried.append(tried)
            if len(found.tried) == limit:
                found.next = row.revision + 1
                await _follow(connection, keys, event, found, replays)
                return found
        await asyncio.sleep(0)  # Hundreds of filters were evaluated: others have waited.
    await _follow(connection, keys, event, found, replays)
    return found


async def trace_one(
    connection: Connection,
    keys: KeyRing,
    row: Record[SubscriptionRecord],
    event: Traced,
    *,
    explain: bool = False,
    replays: Sequence[ReplayRecord] = (),
) -> Trace:
    """Follow an event to one subscription, whether it matched or not. Raises `BusUnavailable`."""
    found = Trace([_try(row.value, event, explain=explain)])
    await _follow(connection, keys, event, found, [each for each in replays if _reached(each, event)])
    return found


def _met(record: SubscriptionRecord, event: Traced, replays: Sequence[ReplayRecord]) -> bool:
    """Whether the subscription was there when the event was stored, or a replay has brought it the event since."""
    if record.bus != event.bus:
        return False
    return _was_there(record, event) or any(each.delivers_to == record.subscription_id for each in replays)


def _was_there(record: SubscriptionRecord, event: Traced) -> bool:
    """Whether it gets the event without a replay: it was made before, or starts in the past."""
    after = record.after_sequence if record.start is None else min(record.start.after, record.after_sequence)
    return event.arrived is None or after < event.sequence


def _try(record: SubscriptionRecord, event: Traced, *, explain: bool) -> Tried:
    if event.arrived is None or event.arrived.event is None:
        return Tried(record, None)
    try:
        wanted = compile_filter(whole_filter(record))
    except FilterInvalid:
        return Tried(record, None)  # This release cannot use it: the dispatchers passed it over as well.
    explanation = wanted.explain(event.arrived.event) if explain else None
    is_part = record.join is not None and event.source != record.joined_source
    return Tried(record, wanted.matches(event.arrived.event), explanation, is_part=is_part)


async def _follow(
    connection: Connection, keys: KeyRing, event: Traced, found: Trace, replays: Sequence[ReplayRecord]
) -> None:
    for tried in found.tried:
        if tried.matched is not False:
            places = _places(tried.record, event)
            tried.stories += [Story(tried.record, each, places) for each in _deliveries(tried.record, event, replays)]
    await tell_stories(connection, keys, [story for tried in found.tried for story in tried.stories])
    if event.arrived is not None:
        stories = [story for tried in found.tried for story in tried.stories]
        await tell_batches(connection, keys, stories, since=event.arrived.stored_at)
    for tried in found.tried:
        if tried.is_part and tried.matched and event.arrived is not None:
            # Of a part there is a delivery only where its key could not be told: a dead letter.
            tried.stories = [story for story in tried.stories if story.state != "unknown"]
            tried.joined = await find_joined(connection, tried.record, event.arrived)
    # Where nobody can say any more whether it matched, what is stored says it.
    found.tried = [tried for tried in found.tried if tried.matched is not None or _is_known(tried.stories)]


def _places(record: SubscriptionRecord, event: Traced) -> list[UUID]:
    """Where a delivery may be, the likeliest first."""
    first = record.endpoint_id
    try:
        places = compile_places(record.endpoint_id, record.endpoint, record.offline.next_endpoints)
        if event.arrived is not None and event.arrived.event is not None:
            first = places.first(event.arrived.event) or first
    except (FilterInvalid, InputFailed, EndpointNotAllowed):
        return [first, *record.former_endpoints]
    others = (record.endpoint_id, *record.offline.next_endpoints, *record.former_endpoints, *sorted(places.all()))
    return list(dict.fromkeys((first, *others)))[:_MOST_PLACES]


def _is_known(stories: Sequence[Story]) -> bool:
    return any(story.state != "unknown" for story in stories)


def _reached(replay: ReplayRecord, event: Traced) -> bool:
    """Whether a replay has come to the event, as far as can be said."""
    if replay.bus != event.bus or (event.arrived is not None and not replay.after < event.sequence <= replay.position):
        return False
    known = None if event.arrived is None else event.arrived.event
    return known is None or replay.filter is None or compile_filter(replay.filter).matches(known)


def _deliveries(record: SubscriptionRecord, event: Traced, replays: Sequence[ReplayRecord]) -> Iterator[Delivery]:
    is_own = any(each.replay_id == record.subscription_id for each in replays)
    if not is_own and _was_there(record, event):
        yield Delivery(record.subscription_id, event.bus, event.sequence, event.source, event.event_id)
    for replay in replays:
        if replay.delivers_to == record.subscription_id:
            yield Delivery(
                record.subscription_id,
                event.bus,
                event.sequence,
                event.source,
                event.event_id,
                replay=replay.replay_id,
            )
