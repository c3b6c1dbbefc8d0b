"""Publishing to a bus, whoever its owner is: the bus is there, the event fits the schema of its type, and is stored.

All doors lead through here: HTTP, webhooks, schedules, actions, and what other systems announce over NATS.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from headrace.bus.errors import BusMissing, EventUnfit, PublishingForbidden
from headrace.bus.eventing import events
from headrace.bus.eventing.buses import MARK, BusRecord, EventSchema
from headrace.bus.eventing.events import CloudEvent, Published
from headrace.bus.eventing.standing import urns_of
from headrace.bus.names import DEFAULT_BUS, event_stream
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.gathering import Gatherings
from headrace.bus.store.models import UserRecord
from headrace.bus.store.recent import BELIEVED_S, RecentRecords
from headrace.bus.store.records import Records
from headrace.schemas import TOO_LONG, SchemaViolation, Violation, validate_given

_STEPS_AT_ONCE: Final = 2_000
"""Some milliseconds; what takes longer is checked on a thread, and so are batches of more than a few."""
_FEW: Final = 4
_MOST_PROBLEM = 500
_MOST_KNOWN = 10_000
_MOST_VIOLATIONS = 20


class _TakesLongerError(Exception):
    """So many steps do not suffice."""


class Publishing:
    """Publishes to buses. `publisher` is the principal who is noted beside the events; `check` whether they may publish
    there, where nobody asks for it just now, as with schedules and webhooks. A caller's rights are checked before."""

    def __init__(
        self,
        connection: Connection,
        buses: RecentRecords[BusRecord],
        users: Records[UserRecord],
        gatherings: Gatherings | None = None,
    ) -> None:
        """`gatherings` are for who publishes many single events at a time: those of one bus go together."""
        self._connection = connection
        self._gatherings = gatherings
        self._buses = buses
        self._users = users
        self._standing: dict[str, tuple[frozenset[str] | None, float]] = {}

    async def publish(
        self, event: CloudEvent, *, publisher: str, bus: str = DEFAULT_BUS, check: bool = False
    ) -> Published:
        """Store an event; returns when it is stored.

        Raises `BusMissing`, `PublishingForbidden` and `EventUnfit`, and as `headrace.bus.eventing.events.publish` does.
        """
        return (await self.publish_together([event], bus=bus, publisher=publisher, check=check))[0]

    async def publish_together(
        self, given: Sequence[CloudEvent], *, publisher: str, bus: str = DEFAULT_BUS, check: bool = False
    ) -> list[Published]:
        """Store up to 1 000 events in this order, all of them or none. Raises as `publish` does; the pointers of
        `EventUnfit` begin with the event's position where there are several."""
        if bus == DEFAULT_BUS:
            return await self._store(given, bus, publisher)
        record = await self._record(bus)
        if check:
            await self._check(record, publisher)
        checked = await _checked(record, given)
        fitted = [event for event, _ in checked]
        published = await self._store(fitted, bus, publisher)
        return [replace(each, problem=problem) for each, (_, problem) in zip(published, checked, strict=True)]

    async def _store(self, given: Sequence[CloudEvent], bus: str, publisher: str) -> list[Published]:
        single = None if self._gatherings is None else self._gatherings.of(event_stream(bus))
        return await events.publish_together(self._connection, given, bus=bus, publisher=publisher, single=single)

    async def _record(self, bus: str) -> BusRecord:
        found = await self._buses.recent(bus)
        if found is None or not found.value.is_there:
            raise BusMissing(f"there is no bus {bus!r} (any more)")
        return found.value

    async def _check(self, record: BusRecord, owner: str) -> None:
        urns = await self._urns(owner)
        if urns is None or not record.lets_publish(urns):
            raise PublishingForbidden(f"{owner} may not publish to the bus {record.name!r} (any more)")

    async def _urns(self, owner: str) -> frozenset[str] | None:
        """The names and groups of an owner, at most a second old; None for one who is no user any more."""

        async def find(key: str) -> UserRecord | None:
            found = await self._users.get(key)
            return None if found is None else found.value

        known = self._standing.get(owner)
        if known is None or known[1] < time.monotonic():
            if len(self._standing) >= _MOST_KNOWN:
                self._standing.clear()
            known = self._standing[owner] = (await urns_of(find, owner), time.monotonic() + BELIEVED_S)
        return known[0]


async def _checked(record: BusRecord, given: Sequence[CloudEvent]) -> list[tuple[CloudEvent, str]]:
    """The events as they are to be stored, each with what is wrong with it. Raises `EventUnfit`."""
    concerned = sum(event.type in record.schemas for event in given)
    if not concerned:
        return [(event, "") for event in given]
    if concerned <= _FEW:
        try:
            return _compared(record, given, steps=_STEPS_AT_ONCE)
        except _TakesLongerError:
            pass
    # Others do not wait for this one.
    return await asyncio.to_thread(_compared, record, given, steps=None)


def _compared(record: BusRecord, given: Sequence[CloudEvent], *, steps: int | None) -> list[tuple[CloudEvent, str]]:
    checked, refused, kinds = [], [], []
    for place, event in enumerate(given):
        wanted = record.schemas.get(event.type)
        problems = () if wanted is None else _problems(wanted, event, steps)
        if problems and wanted is not None and wanted.policy == "reject":
            where = f"/{place}" if len(given) > 1 else ""
            refused += [replace(each, pointer=where + each.pointer) for each in problems]
            kinds.append(event.type)
        checked.append(_marked(event, problems) if problems else (event, ""))
    if refused:
        raise EventUnfit(
            f"this does not fit the schema that the bus {record.name!r} has for the type {kinds[0]!r}",
            violations=tuple(refused[:_MOST_VIOLATIONS]),
        )
    return checked


def _problems(wanted: EventSchema, event: CloudEvent, steps: int | None) -> tuple[Violation, ...]:
    """What is wrong with an event. Raises `_TakesLongerError` when so many steps do not suffice to know; without a
    number, that is what is wrong."""
    if "data" not in event.document:
        held = "bytes (data_base64)" if "data_base64" in event.document else "none"
        return (Violation(pointer="/data", problem=f"this type of event needs data that is JSON; here is {held}"),)
    try:
        validate_given(wanted.schema, event.document["data"], name="data", steps=steps)
    except SchemaViolation as error:
        if steps is not None and error.violations[0].keyword == TOO_LONG:
            raise _TakesLongerError from None
        return tuple(replace(each, pointer=f"/data{each.pointer}") for each in error.violations)
    return ()


def _marked(event: CloudEvent, problems: Sequence[Violation]) -> tuple[CloudEvent, str]:
    """The event with the mark; all else stays as it is."""
    text = "; ".join(f"{each.pointer}: {each.problem}" for each in problems)
    # What is quoted in it may hold what no attribute may.
    text = "".join(sign if sign.isprintable() else " " for sign in text)[:_MOST_PROBLEM]
    return CloudEvent({**event.document, MARK: text}, {**event.attributes, MARK: text}), text
