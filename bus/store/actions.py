"""Actions: one record for each run of an action provider, and the promise that a request starts one action.

    actions      the record, under a key that stands for the request (`headrace.bus.store.action_keys`); creating it
                 decides which of several equal requests starts the action
    action_ids   where the record of an action lies whose id does not say so
    waits        under the same key as the record: that this action waits for events

A request id counts per creator and provider. Lists are in `headrace.bus.store.action_lists`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import msgspec

from headrace.bus.errors import RecordConflict
from headrace.bus.names import Address, token
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.store.action_ends import TOGETHER_S, EndsToWrite
from headrace.bus.store.action_keys import key_of_id, old_request_key, request_key
from headrace.bus.store.action_lists import ActionLists, Listed, ListState, Mended, Role
from headrace.bus.store.records import Record, Records
from headrace.bus.tasks.submission import Submitted

ActionState = Literal["ACTIVE", "INACTIVE", "SUCCEEDED", "FAILED"]

_GRACE_S = 7 * 86_400.0
"""How long an action that goes on is kept beyond its deadline: by then somebody has ended it."""
_WITHOUT_DEADLINE_S = 90 * 86_400.0

_MOST_FRESH = 10_000
_MEND_PAGE = 200


class ActionBundle(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle of an action's tasks."""

    bundle: UUID
    total: int


class ActionWork(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tasks of an action, in one pool."""

    endpoint: UUID
    pool: str
    group: UUID
    bundles: tuple[ActionBundle, ...]
    places: tuple[int, ...] = ()
    """Which of the action's tasks these are, where it has others elsewhere; empty: they are all."""

    def submitted(self, principal: str) -> list[Submitted]:
        """The bundles with their addresses."""
        return [
            Submitted(
                address=Address(
                    endpoint=self.endpoint, pool=self.pool, principal=principal, group=self.group, bundle=each.bundle
                ),
                total=each.total,
            )
            for each in self.bundles
        ]


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to an action as a whole, for its log."""

    at: float
    code: str
    description: str


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """What an action that has not begun, since a consent is missing, will begin with."""

    request: dict[str, Any]
    query: dict[str, str]


class FoundEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that an action waited for, as it is shown."""

    sequence: int
    at: float
    """When it was stored."""
    event: dict[str, Any]
    size: int = 0
    """Its bytes, as far as they count for what an action may show."""
    cut: bool = False
    """Its data was too large, and is left out."""


class EventWait(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an action waits for, and how far it has come: see `headrace.bus.eventing.waits`."""

    bus: str
    filter: Any
    since: int
    """Events after this sequence count."""
    position: int
    """The last event that was looked at."""
    count: int = 1
    found: tuple[FoundEvent, ...] = ()


class ActionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One action. Times are unix seconds. While it is `ACTIVE`, its state is computed from its work; the end is written
    here once and never changes."""

    action_id: str
    provider: str
    creator: str
    request_id: str
    request_digest: str
    """SHA-256 of the whole request, to tell a repetition from another request under the same id."""
    started_at: float
    label: str | None = None
    monitor_by: tuple[str, ...] = ()
    manage_by: tuple[str, ...] = ()
    release_after: str = "P30D"
    release_after_s: float = 30 * 86_400.0
    deadline: float | None = None
    work: ActionWork | None = None
    status: ActionState = "ACTIVE"
    display_status: str = ""
    details: dict[str, Any] | None = None
    """The details of the end; None when they are too large to be kept here: they are then computed each time."""
    ended_at: float | None = None
    more_work: tuple[ActionWork, ...] = ()
    """Its tasks in other pools, or at other endpoints."""
    group_named: bool = False
    """Whether the caller named the group of its tasks."""
    waiting: Waiting | None = None
    """Set while it is `INACTIVE` and has not begun."""
    history: tuple[Happening, ...] = ()
    wait: EventWait | None = None
    """The events that it waits for."""

    @property
    def works(self) -> tuple[ActionWork, ...]:
        """All its tasks, by where they are."""
        return () if self.work is None else (self.work, *self.more_work)

    @property
    def final(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("SUCCEEDED", "FAILED")


class WaitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """That the action behind a key waits for events of a bus: what has to be looked at, without all other actions."""

    action_id: str
    bus: str
    ended: bool = False
    """It waits no more. The record stays for a while: a backup may have copied the action when it waited still."""


class ActionIdRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where the record of an action lies."""

    key: str


@dataclass(frozen=True, slots=True)
class Start:
    """What `start` found: the record, and whether this call created it."""

    record: Record[ActionRecord]
    created: bool


class Actions:
    """The actions of all providers."""

    def __init__(self, connection: Connection, *, together_s: float = TOGETHER_S) -> None:
        """`together_s` is how long an end waits for others to be written with."""
        self._connection = connection
        self._records = Records(connection, "actions", ActionRecord)
        self._ids = Records(connection, "action_ids", ActionIdRecord)
        self.lists = ActionLists(connection)
        self._old_keys = True
        self._fresh: OrderedDict[str, None] = OrderedDict()
        """Keys of actions that began here and are in no list yet."""
        self._ends = EndsToWrite(self._write_end, self._write_ends, together_s=together_s)
        self.waits = Records(connection, "waits", WaitRecord)

    async def ensure(self, *, replicas: int = 1) -> None:
        """Create the buckets where they are missing, and see whether there are records of an earlier release."""
        await self._records.ensure(replicas=replicas, in_batches=True)
        await self._ids.ensure(replicas=replicas)
        await self.lists.ensure(replicas=replicas)
        # A service of the earlier release that goes on meanwhile may write some more.
        await self._connection.subscribe("changed.actions.*.*", self._on_old_key)
        self._old_keys = await self._has_old_keys()
        await self.waits.ensure(replicas=replicas)

    async def of_request(self, provider: str, creator: str, request_id: str) -> Record[ActionRecord] | None:
        """The action that this request started, or None."""
        found = await self._records.get(request_key(provider, creator, request_id))
        if found is None and self._old_keys:
            found = await self._records.get(old_request_key(provider, creator, request_id))
        if found is None or not _is_of(found.value, provider, creator, request_id):
            return None
        return self._ends.over(found)

    async def by_key(self, key: str) -> Record[ActionRecord] | None:
        """The action whose record lies under this key, or None."""
        found = await self._records.get(key)
        return None if found is None else self._ends.over(found)

    async def by_id(self, action_id: str) -> Record[ActionRecord] | None:
        """The action of this id, or None when it never was, or was released."""
        key = key_of_id(action_id)
        record = None if key is None else await self._records.get(key)
        if record is None or record.value.action_id != action_id:
            pointer = await self._ids.get(token(action_id))
            record = None if pointer is None else await self._records.get(pointer.value.key)
        # After a release the same request may have started another action under the same key.
        return self._ends.over(record) if record is not None and record.value.action_id == action_id else None

    async def under(self, keys: Sequence[str]) -> dict[str, Record[ActionRecord]]:
        """The actions whose records lie under these keys; at most some hundred, in one read."""
        found = await self._records.several(keys)
        return {key: self._ends.over(record) for key, record in found.items()}

    async def start(self, action: ActionRecord) -> Start:
        """Create the record, unless there is one of the same creator and request id: exactly one caller creates it.

        Raises `RecordConflict` when the place is taken by another request whose hash is the same.
        """
        request = (action.provider, action.creator, action.request_id)
        key = request_key(*request)
        while True:
            if self._old_keys and (old := await self._records.get(old_request_key(*request))) is not None:
                return Start(old, created=False)
            try:
                revision = await self._records.create(key, action, ttl_s=life_s(action))
            except RecordConflict:
                found = await self._records.get(key)
                if found is None:
                    continue  # Released in this moment: the request starts a new action.
                if not _is_of(found.value, *request):
                    raise RecordConflict("another request has the place of this one: use another request_id") from None
                return Start(self._ends.over(found), created=False)
            self._note_fresh(key)
            return Start(Record(key, action, revision), created=True)

    async def claim_id(self, action_id: str, key: str) -> bool:
        """Take an action id that others might want as well for the request behind `key`; whether it is that one's."""
        try:
            await self._ids.create(token(action_id), ActionIdRecord(key=key), ttl_s=_WITHOUT_DEADLINE_S)
        except RecordConflict:
            found = await self._ids.get(token(action_id))
            return found is not None and found.value.key == key
        return True

    async def publish_id(self, record: Record[ActionRecord]) -> None:
        """Make the action findable by its id. Idempotent; nobody may be told the id before.

        Does nothing for an id of `new_action_id`, which leads to the record by itself.
        """
        if key_of_id(record.value.action_id) != record.key:
            # The record gets its time after the end only then: the pointer must outlive it.
            after_end_s = 0.0 if record.value.final else record.value.release_after_s
            ttl_s = life_s(record.value) + after_end_s
            await self._ids.put(token(record.value.action_id), ActionIdRecord(key=record.key), ttl_s=ttl_s)

    async def finish(self, record: Record[ActionRecord], end: ActionRecord) -> Record[ActionRecord] | None:
        """Write the end; from here on the record lives for its `release_after`. The end stays that was written first.

        Gives the record as it is then, or None when it was released in the meantime.
        """
        # Sent before the end, so that who has seen that finds it in the lists. Should it not be written: see there.
        await self.lists.enter_soon(listed_as(record.key, end))
        try:
            return await self._end(record, end)
        except RecordConflict:
            return await self.by_id(record.value.action_id)

    async def finish_soon(self, record: Record[ActionRecord], end: ActionRecord) -> Record[ActionRecord] | None:
        """The same for an end that everybody computes in the same way from what is stored, such as results: it counts
        from now on, and is written a moment later, by `write_ends`."""
        if not self._ends.has_room:
            return await self.finish(record, end)
        await self.lists.enter_soon(listed_as(record.key, end))
        self._ends.add(Record(record.key, end, record.revision))
        return self._ends.over(record)

    async def write_ends(self) -> None:
        """Write what `finish_soon` was given until cancelled, and then the rest."""
        await self._ends.run()

    async def change(self, record: Record[ActionRecord], value: ActionRecord) -> Record[ActionRecord] | None:
        """Write another state of an action that goes on. Gives the record as it is then: somebody else may have been
        first; None when it was released in the meantime."""
        try:
            return await self._records.update(record, value, ttl_s=life_s(value))
        except RecordConflict:
            return await self.by_id(record.value.action_id)

    async def begin(self, waiting: Record[ActionRecord], value: ActionRecord) -> Start | None:
        """Begin an action that has waited: exactly one caller does. None when it was released in the meantime."""
        try:
            return Start(await self._records.update(waiting, value, ttl_s=life_s(value)), created=True)
        except RecordConflict:
            found = await self.by_id(value.action_id)
            return None if found is None else Start(found, created=False)

    async def list_open(self, record: Record[ActionRecord]) -> None:
        """Put an action that goes on into the lists. Idempotent."""
        self._fresh.pop(record.key, None)
        await self.lists.enter(listed_as(record.key, record.value))

    async def release(self, record: Record[ActionRecord]) -> None:
        """Forget the action and its request id. Raises `RecordConflict` when it changed in the meantime."""
        stored = await self._ends.take_back(record)
        try:
            await self._records.remove(record if stored is None else stored)
        except RecordConflict:
            # Its end may have been written since it was read.
            found = await self._records.get(record.key)
            if found is None or not found.value.final or found.value.action_id != record.value.action_id:
                raise
            record = found
            await self._records.remove(record)
        # A crash before this leaves a pointer to nothing, and entries in lists: readers take them for what they are.
        if key_of_id(record.value.action_id) != record.key:
            await self._ids.delete(token(record.value.action_id))
        listed = listed_as(record.key, record.value)
        await self.lists.leave(listed, listed.state)

    async def mend_lists(self, *, share: float = 1.0) -> int:
        """Put the lists in order for all actions that have changed since about the last time but one; how many
        entries that were. The first time after an earlier release: for all.

        It works for this `share` of the time, so that what is busy is not disturbed by what may wait.
        """
        mended = await self.lists.mended()
        up_to, count, began = mended.before, 0, time.monotonic()
        async for page in self._changed_after(mended.before):
            shown = map(self._ends.over, page)
            count += await self.lists.mend([listed_as(record.key, record.value) for record in shown])
            up_to = max(up_to, page[-1].revision)
            await asyncio.sleep((time.monotonic() - began) * (1 / share - 1))
            began = time.monotonic()
        await self.lists.remember_mended(Mended(up_to=up_to, before=mended.up_to))
        return count

    def _changed_after(self, revision: int) -> AsyncIterator[Sequence[Record[ActionRecord]]]:
        return self._records.pages(start=revision + 1, size=_MEND_PAGE)

    async def _write_end(self, shown: Record[ActionRecord]) -> Record[ActionRecord]:
        return await self._end(shown, shown.value)

    async def _write_ends(self, shown: Sequence[Record[ActionRecord]]) -> list[Record[ActionRecord]]:
        changes = [(record, record.value, life_s(record.value)) for record in shown]
        written = await self._records.update_together(changes)
        for record in written:
            await self._leave_open(record.key, record.value)
        return written

    async def _end(self, record: Record[ActionRecord], end: ActionRecord) -> Record[ActionRecord]:
        ended = await self._records.update(record, end, ttl_s=life_s(end))
        await self._leave_open(record.key, end)
        return ended

    async def _leave_open(self, key: str, end: ActionRecord) -> None:
        if self._fresh.pop(key, "listed") == "listed":
            await self.lists.leave(listed_as(key, end), "open")

    def _note_fresh(self, key: str) -> None:
        self._fresh[key] = None
        if len(self._fresh) > _MOST_FRESH:
            self._fresh.popitem(last=False)

    def _on_old_key(self, _message: Message) -> None:
        self._old_keys = True

    async def _has_old_keys(self) -> bool:
        async for page in self._records.pages("*.*", size=_MEND_PAGE):
            if page:
                return True
        return False


def listed_as(key: str, action: ActionRecord) -> Listed:
    """An action as the lists know it."""
    state: ListState = "open"
    if action.final:
        state = "succeeded" if action.status == "SUCCEEDED" else "failed"
    holders: list[tuple[Role, str]] = [("creator_id", action.creator)]
    holders += [("monitor_by", urn) for urn in action.monitor_by]
    holders += [("manage_by", urn) for urn in action.manage_by]
    return Listed(key=key, provider=action.provider, state=state, holders=tuple(holders), life_s=life_s(action))


def life_s(action: ActionRecord) -> float:
    """How long the record of an action is kept: from its end, and while it goes on from now."""
    if action.final:
        return action.release_after_s
    if action.deadline is None:
        return _WITHOUT_DEADLINE_S
    return max(0.0, action.deadline - time.time()) + _GRACE_S


def _is_of(action: ActionRecord, provider: str, creator: str, request_id: str) -> bool:
    return (action.provider, action.creator, action.request_id) == (provider, creator, request_id)
