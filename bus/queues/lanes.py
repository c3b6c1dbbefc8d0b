"""Lanes: the queue of one principal at one pool, and the durable consumer through which the pool takes from it.

    lane       one record in the bucket `lanes`, and one consumer on TASKS for `task.<endpoint>.<pool>.<principal>.>`
    used       before a principal may submit: when a session is opened, and before the service submits for somebody.
               The record is written first, then the consumer is made, then the pool is told; whoever submits waits
               for all three.
    remade     the consumer, when it has gone with the NATS server that had it in memory: see `lane_consumers`
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
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.bus.errors import ConsumerOverlaps, DecodeError, RecordConflict
from headrace.bus.keys import KeyRing
from headrace.bus.names import DEFAULT_POOL, Address, lane_key, lane_news, lane_of, lane_tasks
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lane_consumers import Depth, LaneState, find_state, make, moment_of
from headrace.bus.queues.lane_news import LaneName, encode_news
from headrace.bus.store.models import LaneRecord
from headrace.bus.store.records import Record, Records
from headrace.bus.store.streams import delete_consumer

logger = logging.getLogger(__name__)

LEASE_S: Final = 3600.0
"""How long a lane is kept after its use; longer than any session lives."""
_RENEW_S = 1200.0
_GRACE_S = 600.0
"""Longer than services' clocks may differ."""
_MOST_LEASES = 100_000
_TRIES = 5
_AT_ONCE = 16


class Lanes:
    """The lanes of all pools. Each service has one; what it remembers is for speed only."""

    def __init__(self, connection: Connection, keys: KeyRing, records: Records[LaneRecord]) -> None:
        self._connection = connection
        self._keys = keys
        self._records = records
        self._used: dict[str, LaneRecord] = {}
        self._used_on = connection.generation

    async def use(self, endpoint: UUID, pool: str, principal: str, *, for_s: float = _RENEW_S) -> LaneRecord:
        """See to it that what the principal submits to the pool within the next `for_s` seconds is taken by it.

        Asks nobody while an earlier use lasts. Raises `BusUnavailable` and `StreamFull`.
        """
        key = lane_key(endpoint, pool, principal)
        known = self._known(key)
        if known is not None and known.used_until - time.time() > for_s:
            return known
        generation = self._used_on
        lane, is_new = await self._leased(key, endpoint, pool, principal, for_s)
        state = await self._make(lane) if is_new else await self._kept(lane)
        await self._announce(lane, state.remade_up_to)
        if len(self._used) >= _MOST_LEASES:
            self._used.clear()
        if generation == self._connection.generation:
            self._used[key] = lane
        return lane

    def _known(self, key: str) -> LaneRecord | None:
        """A lane that was used, and has its consumer: those are gone when the server was started again."""
        if self._used_on != self._connection.generation:
            self._used_on = self._connection.generation
            self._used.clear()
        return self._used.get(key)

    def forget(self, endpoint: UUID) -> None:
        """Look again at the lanes of an endpoint when they are used the next time."""
        for key in [key for key in self._used if key.startswith(f"{endpoint.hex}.")]:
            del self._used[key]

    async def of(self, endpoint: UUID, pool: str | None = None) -> list[LaneRecord]:
        """The lanes of an endpoint, or of one of its pools."""
        prefix = f"{endpoint.hex}." if pool is None else lane_key(endpoint, pool, "-").removesuffix("-")
        return [record.value for record in await self._records.list(prefix)]

    async def open(self, endpoint: UUID, pool: str) -> list[LaneName]:
        """The lanes of a pool that begins, or goes on: each has its consumer when this returns."""
        lanes = await self.of(endpoint, pool)
        # To make one that is there already costs the server as much as a new one, looking does not.
        states = await asyncio.gather(*(find_state(self._connection, lane) for lane in lanes))
        await self._remake([lane for lane, state in zip(lanes, states, strict=True) if state is None])
        if None in states:
            states = await asyncio.gather(*(find_state(self._connection, lane) for lane in lanes))
        return [
            LaneName(lane.consumer, lane.principal, state.remade_up_to)
            for lane, state in zip(lanes, states, strict=True)
            if state is not None  # removed just now: whoever uses it again tells of it
        ]

    async def state(self, endpoint: UUID, pool: str, principal: str) -> LaneState:
        """What the server knows of a lane; an empty one when there is none."""
        key = lane_key(endpoint, pool, principal)
        known = self._known(key)
        # It may have another name by now, or none.
        state = None if known is None else await find_state(self._connection, known)
        if state is not None:
            return state
        found = await self._records.get(key)
        state = None if found is None else await find_state(self._connection, found.value)
        if state is not None:
            return state
        info = await self._connection.api("STREAM.INFO.TASKS")
        # A lane whose consumer went with its server has been there, and nobody knows what it gave away.
        taken_up_to = 0 if found is None else info["state"]["last_seq"]
        return LaneState(taken_up_to=taken_up_to, now=moment_of(info))

    async def depths(self, endpoint: UUID) -> dict[str, Depth]:
        """How much of each principal is unfinished at an endpoint, all its pools together."""
        lanes = await self.of(endpoint)
        states = await asyncio.gather(*(find_state(self._connection, lane) for lane in lanes))
        depths: dict[str, Depth] = {}
        for lane, state in zip(lanes, states, strict=True):
            if state is not None:
                depths[lane.principal] = depths.get(lane.principal, Depth()) + state.depth
        return depths

    async def deep(self, least: int) -> AsyncIterator[tuple[UUID, str, Depth]]:
        """The lanes with so many unfinished bundles: endpoint, principal and how many."""
        async for info in pages.consumers(self._connection, "TASKS"):
            depth = LaneState.of(info).depth
            if depth.used >= least:
                with contextlib.suppress(DecodeError):
                    endpoint, _, principal = lane_of(_filters(info).pop())
                    yield endpoint, principal, depth

    async def unserved(self) -> AsyncIterator[tuple[UUID, str]]:
        """The pools in whose lanes bundles wait while nobody asks for any, and nobody has one in hand."""
        async for info in pages.consumers(self._connection, "TASKS"):
            state = LaneState.of(info)
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
        consumers = {info["name"]: LaneState.of(info) async for info in pages.consumers(self._connection, "TASKS")}
        # Read after them: a lane's record is written before its consumer is made.
        records = await self._records.list()
        names = {record.value.consumer for record in records}
        for name in consumers.keys() - names:
            # Of an earlier release, or of a lane whose removal was interrupted: names are not used twice.
            await delete_consumer(self._connection, "TASKS", name)
        missing = [record.value for record in records if record.value.consumer not in consumers]
        for record in records:
            state = consumers.get(record.value.consumer)
            if state is None or state.depth.used:
                continue
            if record.value.used_until + _GRACE_S < time.time():
                await self._retire(record)
            elif not state.in_memory:
                # Of an earlier release. It cannot be changed; what came in since we looked is given once more.
                await delete_consumer(self._connection, "TASKS", record.value.consumer)
                missing.append(record.value)
        remade = await self._remake(missing)
        after = await self._connection.api("STREAM.INFO.TASKS")
        arrived = after["state"]["last_seq"] - before["state"]["last_seq"]
        held = sum(state.depth.used for name, state in (consumers | remade).items() if name in names)
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

    async def _leased(
        self, key: str, endpoint: UUID, pool: str, principal: str, for_s: float
    ) -> tuple[LaneRecord, bool]:
        """The record of a lane that may be used for so long, and whether it is new."""
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
                    return fresh, True
                if found.value.used_until - now > for_s:
                    return found.value, False
                longer = msgspec.structs.replace(found.value, used_until=until)
                return (await self._records.update(found, longer)).value, False
            except RecordConflict:
                await asyncio.sleep(0)  # another service did the same

    async def _kept(self, lane: LaneRecord) -> LaneState:
        """The state of a lane whose record was there, with a consumer in any case."""
        state = await find_state(self._connection, lane)
        return (await self._remake([lane]))[lane.consumer] if state is None else state

    async def _remake(self, lanes: Sequence[LaneRecord]) -> dict[str, LaneState]:
        """Make the consumers of lanes that had some before; their states, by the consumers' names.

        What those gave to pools is given again by these. Pools must know of that before the first bundle comes, so
        they are told before the consumer is made.
        """
        if not lanes:
            return {}
        end = await self._end_of_tasks()
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def remade(lane: LaneRecord) -> LaneState:
            nonlocal end
            async with at_once:
                while True:
                    generation, last = end
                    await self._announce(lane, last)
                    if generation == self._connection.generation:
                        return await self._make(lane, remade_up_to=last)
                    # The server may have been started once more, and another service may have been first the time
                    # before: then the lane has given what came since.
                    end = await self._end_of_tasks()

        states = await asyncio.gather(*map(remade, lanes))
        logger.info("Made %d consumers of lanes again.", len(lanes), extra={"action": "lanes_remade"})
        return {lane.consumer: state for lane, state in zip(lanes, states, strict=True)}

    async def _end_of_tasks(self) -> tuple[int, int]:
        """Where TASKS ends, after the number of the link that says so."""
        generation = self._connection.generation
        info = await self._connection.api("STREAM.INFO.TASKS")
        return generation, int(info["state"]["last_seq"])

    async def _make(self, lane: LaneRecord, *, remade_up_to: int = 0) -> LaneState:
        for tries_left in reversed(range(_TRIES)):
            try:
                return await make(self._connection, lane, remade_up_to=remade_up_to)
            except ConsumerOverlaps:
                if not tries_left:
                    raise
            await self._clear_the_way(lane)
            remade_up_to = (await self._connection.api("STREAM.INFO.TASKS"))["state"]["last_seq"]
        raise AssertionError("unreachable")

    async def _clear_the_way(self, lane: LaneRecord) -> None:
        """Remove consumers of other names that take from the lane: of an earlier release, or of an earlier name."""
        mine = lane_tasks(lane.endpoint_id, lane.pool, lane.principal)
        whole_pool = lane_key(lane.endpoint_id, lane.pool, "-").removesuffix("-")
        async for info in pages.consumers(self._connection, "TASKS"):
            if info["name"] != lane.consumer and _filters(info) & {mine, f"task.{whole_pool}>"}:
                await delete_consumer(self._connection, "TASKS", info["name"])

    async def _announce(self, lane: LaneRecord, remade_up_to: int) -> None:
        subject = lane_news(lane.endpoint_id, lane.pool)
        secret = self._keys.pool_secret(lane.endpoint_id, lane.pool)
        message = encode_news(
            LaneName(lane.consumer, lane.principal, remade_up_to), subject=subject, pool_secret=secret
        )
        await self._connection.store(subject, message)


def _fresh_name() -> str:
    return f"lane-{secrets.token_hex(16)}"


def _filters(info: dict[str, Any]) -> set[str]:
    config = info["config"]
    return {each for each in (config.get("filter_subject"), *(config.get("filter_subjects") or ())) if each} or {">"}
