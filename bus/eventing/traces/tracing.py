"""Traces: for one event, which subscriptions it met, and what became of each delivery that came of it.

Subscriptions are read page by page from their table, and their filters are evaluated once more on the stored event;
what follows is looked up by ids (`stories`). Of an event that the bus has forgotten the filters cannot say anything,
but the ids still lead to its deliveries, for as long as their results and dead letters are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.arrivals import Arrived
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.eventing.traces.stories import Story, tell_stories
from headrace.bus.filters import Explanation, compile_filter
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record, Records

_PAGE: Final = 200


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
) -> Trace:
    """Follow an event to the visible subscriptions, `limit` of them at most, from a place in their table on.

    With `explain` those that did not match are shown as well, and why. Raises `BusUnavailable`.
    """
    found = Trace()
    async for page in subscriptions.pages(start=start, size=_PAGE):
        for row in page:
            if not _met(row.value, event) or not is_visible(row.value):
                continue
            tried = _try(row.value, event, explain=explain)
            if tried.matched is False and not explain:
                found.passed_over += 1
                continue
            found.tried.append(tried)
            if len(found.tried) == limit:
                found.next = row.revision + 1
                await _follow(connection, keys, event, found)
                return found
        await asyncio.sleep(0)  # Hundreds of filters were evaluated: others have waited.
    await _follow(connection, keys, event, found)
    return found


async def trace_one(
    connection: Connection, keys: KeyRing, row: Record[SubscriptionRecord], event: Traced, *, explain: bool = False
) -> Trace:
    """Follow an event to one subscription, whether it matched or not. Raises `BusUnavailable`."""
    found = Trace([_try(row.value, event, explain=explain)])
    await _follow(connection, keys, event, found)
    return found


def _met(record: SubscriptionRecord, event: Traced) -> bool:
    """Whether the subscription was there when the event was stored."""
    return record.bus == event.bus and (event.arrived is None or record.after_sequence < event.sequence)


def _try(record: SubscriptionRecord, event: Traced, *, explain: bool) -> Tried:
    if event.arrived is None or event.arrived.event is None:
        return Tried(record, None)
    try:
        wanted = compile_filter(record.filter)
    except FilterInvalid:
        return Tried(record, None)  # This release cannot use it: the dispatchers passed it over as well.
    explanation = wanted.explain(event.arrived.event) if explain else None
    return Tried(record, wanted.matches(event.arrived.event), explanation)


async def _follow(connection: Connection, keys: KeyRing, event: Traced, found: Trace) -> None:
    for tried in found.tried:
        if tried.matched is not False:
            tried.stories.append(Story(tried.record, _delivery(tried.record, event)))
    await tell_stories(connection, keys, [story for tried in found.tried for story in tried.stories])
    # Where nobody can say any more whether it matched, what is stored says it.
    found.tried = [tried for tried in found.tried if tried.matched is not None or _is_known(tried.stories)]


def _is_known(stories: Sequence[Story]) -> bool:
    return any(story.state != "unknown" for story in stories)


def _delivery(record: SubscriptionRecord, event: Traced) -> Delivery:
    return Delivery(record.subscription_id, event.bus, event.sequence, event.source, event.event_id)
