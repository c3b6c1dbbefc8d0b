"""Pools of users' own configurations: one for each principal, configuration and function environment.

    used       whoever submits names options (`user_endpoint_config`); a record in the bucket `pools` is made for them
    wanted     the record's number grows; every manager of the endpoint hears of it, has the pool run, and reports
    asleep     every manager has stopped it, because it was idle, or given it up. The first task that is stored for
               it, by whoever, makes it wanted again: see `headrace.bus.queues.pool_guards`
    forgotten  when it was not used for a week; an hour, where it cannot be had

SDKs store their tasks without the service, so nobody is asked whether a pool may sleep, and nobody need say that it is
needed. What the listening misses (a service that was away, a manager that is not coming back) is found by `sweep`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.bus.errors import PoolLimit, RecordConflict
from headrace.bus.names import DEFAULT_POOL, pool_key
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lanes import Lanes
from headrace.bus.queues.pool_guards import PoolGuards
from headrace.bus.store.models import PoolRecord, PoolReport
from headrace.bus.store.records import Record, Records, Watch

logger = logging.getLogger(__name__)

MOST_POOLS_PER_PRINCIPAL: Final = 1000
"""Configurations of one principal that an endpoint remembers."""

_KEPT_S: Final = 7 * 86_400.0
_NOTED_EVERY: Final = 1 / 7
"""Of the time for which it is kept."""
_NAME_BYTES = 10


_PREFIX: Final = "p-"


def is_of_user(pool: str) -> bool:
    """Whether this is the name of a pool for somebody's options."""
    return pool.startswith(_PREFIX)


def canonical(options: Mapping[str, Any]) -> bytes:
    """The one form of options: equal ones give equal bytes, whatever the order of their keys."""
    return msgspec.json.encode(options, order="deterministic")


def pool_name(principal: str, options: Mapping[str, Any], environment: str = "", *, per_user: bool = False) -> str:
    """The name of the pool for these options; that of the default pool when there are none, unless `per_user`.

    Nobody else's options lead to it: the principal is part of what is hashed.
    """
    if not options and not environment and not per_user:
        return DEFAULT_POOL
    parts = (principal.encode(), canonical(options), environment.encode())
    sized = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return _PREFIX + hashlib.blake2b(sized, digest_size=_NAME_BYTES, person=b"headrace pool").hexdigest()


class Pools:
    """The pools of all endpoints, watched. Each service has one: `start`, then whatever else, `stop` at the end."""

    def __init__(
        self,
        connection: Connection,
        lanes: Lanes,
        records: Records[PoolRecord],
        *,
        failed_kept_s: float,
    ) -> None:
        """`failed_kept_s`: how long a pool is remembered that cannot be had."""
        self._failed_kept_s = failed_kept_s
        self._lanes = lanes
        self._records = records
        self._known: dict[str, Record[PoolRecord]] = {}
        self._by_endpoint: dict[UUID, set[str]] = {}
        self._news = asyncio.Event()
        self._guards = PoolGuards(connection, lanes, self.wake)
        self._unserved: set[str] = set()
        self._watch: Watch[PoolRecord] | None = None

    async def start(self) -> None:
        """Read all and watch. Raises `BusUnavailable`."""
        self._watch = await self._records.watch(self._changed)

    async def stop(self) -> None:
        """End the watching, and what runs for it."""
        if self._watch is not None:
            await self._watch.stop()
        await self._guards.stop()

    # Used

    async def use(
        self,
        endpoint: UUID,
        principal: str,
        options: Mapping[str, Any],
        *,
        environment: str = "",
        runtime: Mapping[str, str] | None = None,
        wanted: bool = True,
        per_user: bool = False,
        accounts: Mapping[str, str] | None = None,
    ) -> PoolRecord:
        """The record of the pool for these options, made where it is missing; with `wanted` it is woken up.

        Raises `PoolLimit`, `BusUnavailable` and `StreamFull`.
        """
        name = pool_name(principal, options, environment, per_user=per_user)
        key = pool_key(endpoint, name)
        while True:
            found = self._known.get(key) or await self._records.get(key)
            try:
                if found is None:
                    self._check_room(endpoint, principal)
                    fresh = PoolRecord(
                        endpoint_id=endpoint,
                        pool=name,
                        principal=principal,
                        options=dict(options),
                        environment=environment,
                        runtime=dict(runtime or {}),
                        used_at=time.time(),
                        accounts=dict(accounts or {}),
                    )
                    self._note(Record(key, fresh, await self._records.create(key, fresh, ttl_s=_KEPT_S)))
                    return fresh
                if accounts and dict(accounts) != found.value.accounts:
                    await self._put(found, msgspec.structs.replace(found.value, accounts=dict(accounts)))
                    continue
                if wanted and found.value.asleep:
                    return await self._wanted_again(found)
                if self._is_to_be_noted(found.value):
                    return await self._put(found, msgspec.structs.replace(found.value, used_at=time.time()))
                return found.value
            except RecordConflict:
                await self._read_again(key)

    async def wake(self, endpoint: UUID, pool: str, *, though_running: bool = False) -> None:
        """Have a pool run that sleeps; nothing happens to one that is unknown, or that nobody has answered for yet.

        Raises `BusUnavailable`.
        """
        key = pool_key(endpoint, pool)
        while (found := self._known.get(key)) is not None:
            if not (found.value.asleep or (though_running and found.value.answered)):
                return
            try:
                await self._wanted_again(found)
                return
            except RecordConflict:
                await self._read_again(key)

    async def report(self, endpoint: UUID, pool: str, report: PoolReport) -> PoolRecord | None:
        """Keep what a manager says of a pool; gives the record, None when there is none. Raises `BusUnavailable`."""
        key = pool_key(endpoint, pool)
        while True:
            found = await self._records.get(key)
            if found is None:
                return None
            others = tuple(each for each in found.value.reports if each.manager != report.manager)
            try:
                return await self._put(found, msgspec.structs.replace(found.value, reports=(*others, report)))
            except RecordConflict:
                await asyncio.sleep(0)

    async def left(self, endpoint: UUID, manager: str) -> None:
        """A manager stops, and its pools with it: what is queued for them wakes them. Raises `BusUnavailable`."""
        for pool in [each.value for each in self.of(endpoint)]:
            said = next((each for each in pool.reports if each.manager == manager), None)
            if said is not None and said.is_running:
                stopped = msgspec.structs.replace(said, state="stopped", at=time.time())
                await self.report(endpoint, pool.pool, stopped)

    async def remove(self, endpoint: UUID) -> None:
        """Forget the pools of an endpoint that is deleted."""
        for record in await self._records.list(f"{endpoint.hex}."):
            await self._records.delete(record.key)

    # Looked at

    def of(self, endpoint: UUID) -> list[Record[PoolRecord]]:
        """The pools of an endpoint, the longest unchanged one first."""
        known = (self._known[key] for key in self._by_endpoint.get(endpoint, ()))
        return sorted(known, key=lambda each: each.revision)

    def awake_of_principal(self, endpoint: UUID, principal: str) -> list[str]:
        """The names of a principal's pools at an endpoint, but for those that sleep: they have nothing queued."""
        pools = (each.value for each in self.of(endpoint))
        return [each.pool for each in pools if each.principal == principal and not each.asleep]

    def get(self, endpoint: UUID, pool: str) -> PoolRecord | None:
        """A pool's record, as it is known here."""
        found = self._known.get(pool_key(endpoint, pool))
        return None if found is None else found.value

    def failing(self) -> list[Record[PoolRecord]]:
        """The pools that some manager cannot start."""
        return [each for each in self._known.values() if any(r.state == "failed" for r in each.value.reports)]

    @property
    def news(self) -> asyncio.Event:
        """Set at the next change of any pool; look for it *before* you look at the pools."""
        return self._news

    async def until(self, is_so: Callable[[], bool], within_s: float) -> bool:
        """Wait until something is so that depends on the pools; whether it is in the end."""
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            news = self._news
            if is_so():
                return True
            try:
                async with asyncio.timeout_at(deadline):
                    await news.wait()
            except TimeoutError:
                return is_so()

    # Safety net

    async def sweep(self) -> None:
        """Wake the pools whose tasks nobody has taken, here and at the last look, and forget none that has tasks.

        Raises `BusUnavailable`.
        """
        if not self._known:
            return
        unserved = set()
        async for endpoint, pool in self._lanes.unserved():
            key = pool_key(endpoint, pool)
            unserved.add(key)
            await self._keep(key)
            if key in self._unserved:
                await self.wake(endpoint, pool, though_running=True)
        self._unserved = unserved

    async def _keep(self, key: str) -> None:
        found = self._known.get(key)
        if found is not None and self._is_to_be_noted(found.value):
            with contextlib.suppress(RecordConflict):  # then somebody else wrote it just now
                await self._put(found, msgspec.structs.replace(found.value, used_at=time.time()))

    # Inside

    async def _wanted_again(self, found: Record[PoolRecord]) -> PoolRecord:
        wanted = found.value.wanted + 1
        return await self._put(found, msgspec.structs.replace(found.value, wanted=wanted, used_at=time.time()))

    async def _put(self, found: Record[PoolRecord], value: PoolRecord) -> PoolRecord:
        record = await self._records.update(found, value, ttl_s=self._kept_s(value))
        self._note(record)
        return record.value

    def _kept_s(self, pool: PoolRecord) -> float:
        # One that was given up and asked for again since is kept as any other: its manager may be away for days.
        return self._failed_kept_s if pool.given_up else _KEPT_S

    def _is_to_be_noted(self, pool: PoolRecord) -> bool:
        return time.time() - pool.used_at > self._kept_s(pool) * _NOTED_EVERY

    async def _read_again(self, key: str) -> None:
        """The watch lags behind: go on with what is stored."""
        record = await self._records.get(key)
        if record is None:
            self._forget(key)
        else:
            self._note(record)
        await asyncio.sleep(0)

    def _check_room(self, endpoint: UUID, principal: str) -> None:
        known = sum(each.value.principal == principal for each in self.of(endpoint))
        if known >= MOST_POOLS_PER_PRINCIPAL:
            raise PoolLimit(
                f"you have {known} configurations at endpoint {endpoint}, as many as it remembers; use one of them"
                " again: what is not used for a week is forgotten"
            )

    def _changed(self, key: str, record: Record[PoolRecord] | None) -> None:
        if record is None:
            self._forget(key)
        else:
            self._note(record)

    def _note(self, record: Record[PoolRecord]) -> None:
        known = self._known.get(record.key)
        if known is not None and known.revision >= record.revision:
            return
        self._known[record.key] = record
        self._by_endpoint.setdefault(record.value.endpoint_id, set()).add(record.key)
        if record.value.asleep:
            self._guards.begin(record.key, record.value)
        else:
            self._guards.end(record.key)
        self._tell()

    def _forget(self, key: str) -> None:
        record = self._known.pop(key, None)
        if record is not None:
            keys = self._by_endpoint[record.value.endpoint_id]
            keys.discard(key)
            if not keys:
                del self._by_endpoint[record.value.endpoint_id]
            self._guards.end(key)
            self._tell()

    def _tell(self) -> None:
        # A new one each time: whoever waits for the old one has heard.
        news, self._news = self._news, asyncio.Event()
        news.set()
