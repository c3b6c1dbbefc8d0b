"""Actions: one record for each run of an action provider, and the promise that a request starts one action.

    actions      <creator>.<request>   the record; creating it decides which of several equal requests starts the action
    action_ids   <action id>           where the record of an action lies

Both parts of the first key are hashes, so that any request id is a key and the actions of one creator lie together.
A request id counts per creator and provider.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec

from headrace.bus.errors import RecordConflict
from headrace.bus.names import Address, token
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record, Records
from headrace.bus.tasks.submission import Submitted

ActionState = Literal["ACTIVE", "INACTIVE", "SUCCEEDED", "FAILED"]

LONGEST_LIFE_S = 90 * 86_400.0
"""No action is kept longer, whatever was asked: the store must not grow for ever."""


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
    waiting: Waiting | None = None
    """Set while it is `INACTIVE` and has not begun."""
    history: tuple[Happening, ...] = ()

    @property
    def works(self) -> tuple[ActionWork, ...]:
        """All its tasks, by where they are."""
        return () if self.work is None else (self.work, *self.more_work)

    @property
    def final(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("SUCCEEDED", "FAILED")


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

    def __init__(self, connection: Connection) -> None:
        self._records = Records(connection, "actions", ActionRecord)
        self._ids = Records(connection, "action_ids", ActionIdRecord)

    async def ensure(self, *, replicas: int = 1) -> None:
        """Create the buckets where they are missing."""
        await self._records.ensure(replicas=replicas)
        await self._ids.ensure(replicas=replicas)

    async def of_request(self, provider: str, creator: str, request_id: str) -> Record[ActionRecord] | None:
        """The action that this request started, or None."""
        return await self._records.get(request_key(provider, creator, request_id))

    async def by_id(self, action_id: str) -> Record[ActionRecord] | None:
        """The action of this id, or None when it never was, or was released."""
        pointer = await self._ids.get(token(action_id))
        if pointer is None:
            return None
        record = await self._records.get(pointer.value.key)
        # After a release the same request may have started another action under the same key.
        return record if record is not None and record.value.action_id == action_id else None

    async def of_creator(self, creator: str) -> list[Record[ActionRecord]]:
        """All actions that a principal started."""
        return await self._records.list(f"{_hash(creator)}.")

    async def start(self, action: ActionRecord) -> Start:
        """Create the record, unless there is one of the same creator and request id: exactly one caller creates it."""
        key = request_key(action.provider, action.creator, action.request_id)
        while True:
            try:
                revision = await self._records.create(key, action, ttl_s=LONGEST_LIFE_S)
            except RecordConflict:
                found = await self._records.get(key)
                if found is None:
                    continue  # Released in this moment: the request starts a new action.
                return Start(found, created=False)
            return Start(Record(key, action, revision), created=True)

    async def claim_id(self, action_id: str, key: str) -> bool:
        """Take an action id that others might want as well for the request behind `key`; whether it is that one's."""
        try:
            await self._ids.create(token(action_id), ActionIdRecord(key=key), ttl_s=LONGEST_LIFE_S)
        except RecordConflict:
            found = await self._ids.get(token(action_id))
            return found is not None and found.value.key == key
        return True

    async def publish_id(self, record: Record[ActionRecord]) -> None:
        """Make the action findable by its id. Idempotent; nobody may be told the id before."""
        await self._ids.put(token(record.value.action_id), ActionIdRecord(key=record.key), ttl_s=LONGEST_LIFE_S)

    async def finish(self, record: Record[ActionRecord], end: ActionRecord) -> Record[ActionRecord] | None:
        """Write the end; from here on the record lives for its `release_after`. The end stays that was written first.

        Gives the record as it is then, or None when it was released in the meantime.
        """
        try:
            return await self._records.update(record, end, ttl_s=min(end.release_after_s, LONGEST_LIFE_S))
        except RecordConflict:
            return await self.by_id(record.value.action_id)

    async def change(self, record: Record[ActionRecord], value: ActionRecord) -> Record[ActionRecord] | None:
        """Write another state of an action that goes on. Gives the record as it is then: somebody else may have been
        first; None when it was released in the meantime."""
        try:
            return await self._records.update(record, value, ttl_s=LONGEST_LIFE_S)
        except RecordConflict:
            return await self.by_id(record.value.action_id)

    async def release(self, record: Record[ActionRecord]) -> None:
        """Forget the action and its request id. Raises `RecordConflict` when it changed in the meantime."""
        await self._records.remove(record)
        # A crash before this leaves a pointer to nothing, which `by_id` takes for what it is.
        await self._ids.delete(token(record.value.action_id))


def new_action_id() -> str:
    """An id for an action whose provider has none of its own: letters, digits and `-`."""
    return str(uuid4())


def request_key(provider: str, creator: str, request_id: str) -> str:
    """The key of the record of a request."""
    return f"{_hash(creator)}.{_hash(provider, request_id)}"


def _hash(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()
