"""Lanes: the queue of one principal at one pool, and the durable consumer through which the pool takes from it.

    lane       one record in the bucket `lanes`, and one consumer on TASKS for `task.<endpoint>.<pool>.<principal>.>`
    used       before a principal may submit: when a session is opened, and before the service submits for somebody.
               The record is written first, then the consumer is made, then the pool is told; whoever submits waits
               for all three.
    removed    when its use has run out and it is empty; made again, under another name, when it is used again

So what one principal has queued never stands in front of what another one submits. A lane may be removed at any
moment, and a service may die at any place: what lies in TASKS without a lane is found by `sweep`, which every service
runs now and then.

The name of a lane's consumer is a capability: who knows it may take from the lane. It is random, lies in the record, is
told to the lane's pool alone, and changes when the endpoint is registered anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.bus.errors import ConsumerOverlaps, DecodeError, RecordConflict, StreamMissing
from headrace.bus.keys import KeyRing
from headrace.bus.names import DEFAULT_POOL, Address, lane_key, lane_news, lane_of, lane_tasks
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lane_news import LaneName, encode_news
from headrace.bus.store.models import LaneRecord
from headrace.bus.store.records import Record, Records
from headrace.bus.store.streams import delete_consumer, ensure_consumer

logger = logging.getLogger(__name__)

ACK_WAIT_S: Final = 1.75
"""What a pool held when it died runs again after this. Pools say four times in it that they live."""

LEASE_S: Final = 3600.0
"""How long a lane is kept after its use; longer than any session lives."""
_RENEW_S = 1200.0
_GRACE_S = 600.0
"""Longer than services' clocks may differ."""
_MAX_ACK_PENDING = 4096
_MOST_LEASES = 100_000
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How many bundles of a lane are unfinished: those that wait, and those that a pool has in hand."""

    waiting: int = 0
    taken: int = 0

    @property
    def used(self) -> int:
        """Both together."""
        return self.waiting + self.taken

    def __add__(self, other: Depth) -> Depth:
        return Depth(waiting=self.waiting + other.waiting, taken=self.taken + other.taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """What the NATS server knows of a lane."""

    depth: Depth = Depth()
    taken_up_to: int = 0
    """The highest sequence that was given to a pool so far."""
    requests: int = 0
    """How many requests for bundles wait: none when no pool is there, or a full one."""
    now: float
    """When this was so: unix seconds, the server's clock."""


class Lanes:
    """The lanes of all pools. Each service has one; what it remembers is for speed only."""

    def __init__(self, connection: Connection, keys: KeyRing, records: Records[LaneRecord]) -> None:
        self._connection = connection
        self._keys = keys
        self._records = records
        self._used: dict[str, LaneRecord] = {}

    async def use(self, endpoint: UUID, pool: str, principal: str, *, for_s: float = _RENEW_S) -> LaneRecord:
        """See to it that what the principal submits to the pool within the next `for_s` seconds is taken by it.

        Asks nobody while an earlier use lasts. Raises `BusUnavailable` and `StreamFull`.
        """
        key = lane_key(endpoint, pool, principal)
        known = self._used.get(key)
        if known is not None and known.used_until - time.time() > for_s:
            return known
        lane = await self._leased(key, endpoint, pool, principal, for_s)
        await self._make(lane)
        await self._announce(lane)
        if len(self._used) >= _MOST_LEASES:
            self._used.clear()
        self._used[key] = lane
        return lane

    def forget(self, endpoint: UUID) -> None:
        """Look again at the lanes of an endpoint when they are used the next time."""
        for key in [key for key in self._used if key.startswith(f"{endpoint.hex}.")]:
            del self._used[key]

    async def of(self, endpoint: UUID, pool: str | None = None) -> list[LaneRecord]:
        """The lanes of an endpoint, or of one of its pools."""
        prefix = f"{endpoint.hex}." if pool is None else lane_key(endpoint, pool, "-").removesuffix("-")
        return [record.value for record in await self._records.list(prefix)]

    async def open(self, endpoint: UUID, pool: str) -> list[LaneRecord]:
        """The lanes of a pool that begins, or goes on: each has its consumer when this returns."""
        lanes = await self.of(endpoint, pool)
        # To make one that is there already costs the server as much as a new one: 500 take seconds, looking does not.
        states = await asyncio.gather(*(self._state_or_none(lane) for lane in lanes))
        for lane, state in zip(lanes, states, strict=True):
            if state is None:
                await self._make(lane)
        return lanes

    async def state(self, endpoint: UUID, pool: str, principal: str) -> LaneState:
        """What the server knows of a lane; an empty one when there is none."""
        key = lane_key(endpoint, pool, principal)
        lane = self._used.get(key)
        if lane is not None:
            # It may have another name by now, or none.
            with contextlib.suppress(StreamMissing):
                return await self._state_of(lane)
        found = await self._records.get(key)
        if found is not None:
            with contextlib.suppress(StreamMissing):
                return await self._state_of(found.value)
        info = await self._connection.api("STREAM.INFO.TASKS")
        return LaneState(now=_now_of(info))

    async def depths(self, endpoint: UUID) -> dict[str, Depth]:
        """How much of each principal is unfinished at an endpoint, all its pools together."""
        lanes = await self.of(endpoint)
        states = await asyncio.gather(*(self._state_or_none(lane) for lane in lanes))
        depths: dict[str, Depth] = {}
        for lane, state in zip(lanes, states, strict=True):
            if state is not None:
                depths[lane.principal] = depths.get(lane.principal, Depth()) + state.depth
        return depths

    async def deep(self, least: int) -> AsyncIterator[tuple[UUID, str, Depth]]:
        """The lanes with so many unfinished bundles: endpoint, principal and how many."""
        async for info in pages.consumers(self._connection, "TASKS"):
            depth = _state(info).depth
            if depth.used >= least:
                with contextlib.suppress(DecodeError):
                    endpoint, _, principal = lane_of(_filters(info).pop())
                    yield endpoint, principal, depth

    async def unserved(self) -> AsyncIterator[tuple[UUID, str]]:
        """The pools in whose lanes bundles wait while nobody asks for any, and nobody has one in hand."""
        async for info in pages.consumers(self._connection, "TASKS"):
            state = _state(info)
            if state.depth.waiting and not state.depth.taken and not state.requests:
                with contextlib.suppress(DecodeError):
                    endpoint, pool, _ = lane_of(_filters(info).pop())
                    if pool != DEFAULT_POOL:
                        yield endpoint, pool

    async def rename(self, endpoint: UUID) -> None:
        """Give every lane of an endpoint another name, so that nobody who knew the old ones takes from them."""
        for lane in await self.of(endpoint):
            key = lane_key(lane.endpoint_id, lane.pool, lane.principal)
            with contextlib.suppress(RecordConflict):
                record = await self._records.get(key)
                if record is not None:
                    fresh = msgspec.structs.replace(record.value, consumer=_fresh_name())
                    await self._records.update(record, fresh)
                    await delete_consumer(self._connection, "TASKS", record.value.consumer)
                    await self._make(fresh)
        self.forget(endpoint)

    async def remove(self, endpoint: UUID) -> None:
        """Remove all lanes of an endpoint that is deleted."""
        self.forget(endpoint)
        for lane in await self.of(endpoint):
            await self._records.delete(lane_key(lane.endpoint_id, lane.pool, lane.principal))
            await delete_consumer(self._connection, "TASKS", lane.consumer)

    # Keeping order

    async def sweep(self) -> None:
        """Remove what is not used any more, make what is missing, and give what is stranded a lane.

        Safe at any time and from many services at once. Raises `BusError`.
        """
        before = await self._connection.api("STREAM.INFO.TASKS")
        consumers = {info["name"]: info async for info in pages.consumers(self._connection, "TASKS")}
        # Read after them: a lane's record is written before its consumer is made.
        records = await self._records.list()
        names = {record.value.consumer for record in records}
        for name in consumers.keys() - names:
            # Of an earlier release, or of a lane whose removal was interrupted: names are not used twice.
            await delete_consumer(self._connection, "TASKS", name)
        for record in records:
            info = consumers.get(record.value.consumer)
            if info is None:
                await self._make(record.value)
                await self._announce(record.value)
            elif record.value.used_until + _GRACE_S < time.time() and not _state(info).depth.used:
                await self._retire(record)
        after = await self._connection.api("STREAM.INFO.TASKS")
        arrived = after["state"]["last_seq"] - before["state"]["last_seq"]
        held = sum(_state(consumers[name]).depth.used for name in consumers.keys() & names)
        # What arrived meanwhile may not be counted with its lane.
        if after["state"]["messages"] - arrived > held:
            await self._rescue(records)

    async def _rescue(self, records: Iterable[Record[LaneRecord]]) -> None:
        """Make a lane for every principal who has something queued and has none."""
        known = {record.key for record in records}
        stranded = {}
        async for subject in pages.subjects(self._connection, "TASKS", "task.>"):
            with contextlib.suppress(DecodeError):
                address = Address.of_task_subject(subject)
                stranded[lane_key(address.endpoint, address.pool, address.principal)] = address
        for key in stranded.keys() - known:
            address = stranded[key]
            logger.warning(
                "Bundles of %s for endpoint %s had no lane; they have one now.",
                address.principal,
                address.endpoint,
                extra={"action": "lane_rescued", "endpoint_id": str(address.endpoint)},
            )
            self._used.pop(key, None)
            await self.use(address.endpoint, address.pool, address.principal)

    async def _retire(self, record: Record[LaneRecord]) -> None:
        try:
            await self._records.remove(record)
        except RecordConflict:
            return  # somebody uses it again
        # Whoever uses it from here on makes another one, under a name of its own.
        self._used.pop(record.key, None)
        await delete_consumer(self._connection, "TASKS", record.value.consumer)

    async def _leased(self, key: str, endpoint: UUID, pool: str, principal: str, for_s: float) -> LaneRecord:
        while True:
            found, now = await self._records.get(key), time.time()
            until = now + max(LEASE_S, 2 * for_s)
            try:
                if found is None:
                    fresh = LaneRecord(
                        endpoint_id=endpoint,
                        pool=pool,
                        principal=principal,
                        consumer=_fresh_name(),
                        used_until=until,
                    )
                    await self._records.create(key, fresh)
                    return fresh
                if found.value.used_until - now > for_s:
                    return found.value
                longer = msgspec.structs.replace(found.value, used_until=until)
                return (await self._records.update(found, longer)).value
            except RecordConflict:
                await asyncio.sleep(0)  # another service did the same

    async def _make(self, lane: LaneRecord) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                await ensure_consumer(
                    self._connection,
                    "TASKS",
                    lane.consumer,
                    filter_subjects=(lane_tasks(lane.endpoint_id, lane.pool, lane.principal),),
                    ack_wait_s=ACK_WAIT_S,
                    max_ack_pending=_MAX_ACK_PENDING,
                )
                return
            except ConsumerOverlaps:
                if not tries_left:
                    raise
            await self._clear_the_way(lane)

    async def _clear_the_way(self, lane: LaneRecord) -> None:
        """Remove consumers of other names that take from the lane: of an earlier release, or of an earlier name."""
        mine = lane_tasks(lane.endpoint_id, lane.pool, lane.principal)
        whole_pool = lane_key(lane.endpoint_id, lane.pool, "-").removesuffix("-")
        async for info in pages.consumers(self._connection, "TASKS"):
            if info["name"] != lane.consumer and _filters(info) & {mine, f"task.{whole_pool}>"}:
                await delete_consumer(self._connection, "TASKS", info["name"])

    async def _announce(self, lane: LaneRecord) -> None:
        subject = lane_news(lane.endpoint_id, lane.pool)
        secret = self._keys.pool_secret(lane.endpoint_id, lane.pool)
        message = encode_news(LaneName(lane.consumer, lane.principal), subject=subject, pool_secret=secret)
        await self._connection.store(subject, message)

    async def _state_of(self, lane: LaneRecord) -> LaneState:
        return _state(await self._connection.api(f"CONSUMER.INFO.TASKS.{lane.consumer}"))

    async def _state_or_none(self, lane: LaneRecord) -> LaneState | None:
        with contextlib.suppress(StreamMissing):
            return await self._state_of(lane)
        return None


def _fresh_name() -> str:
    return f"lane-{secrets.token_hex(16)}"


def _filters(info: dict[str, Any]) -> set[str]:
    config = info["config"]
    return {each for each in (config.get("filter_subject"), *(config.get("filter_subjects") or ())) if each} or {">"}


def _state(info: dict[str, Any]) -> LaneState:
    return LaneState(
        depth=Depth(waiting=info["num_pending"], taken=info["num_ack_pending"]),
        taken_up_to=info["delivered"]["stream_seq"],
        requests=info["num_waiting"],
        now=_now_of(info),
    )


def _now_of(info: dict[str, Any]) -> float:
    return datetime.fromisoformat(info["ts"]).timestamp()
