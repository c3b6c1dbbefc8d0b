"""Queue limits: how many bundles may be unfinished at an endpoint, of one principal and of all together.

The unit is the bundle: one message in TASKS, from being stored until all its tasks have a stored result. The NATS
server counts them for each lane, so asking costs one request, and no table can drift.

Whoever submits through the service is refused at the limit (`QueueFull`). An SDK stores its bundles itself: its session
tells it how much room there is, and one that goes far beyond it gets credentials that cannot submit (`excess`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

from headrace.bus.errors import QueueFull
from headrace.bus.names import DEFAULT_POOL
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.models import EndpointRecord

MOST_BUNDLES_PER_PRINCIPAL: Final = 100_000
"""Unless the service or the endpoint's owner says otherwise."""

K = TypeVar("K")

_FRESH_S = 1.0
_FRESH_NEAR_LIMIT_S = 0.05
_MOST_KNOWN = 10_000
_EXCESS_FACTOR: Final = 2
_EXCESS_MARGIN: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a principal stands at an endpoint, in bundles; None where there is no limit."""

    limit: int | None
    used: int
    room: int | None
    """How many more may be stored now: by the principal's own limit, and by that of all together."""

    @property
    def may_submit(self) -> bool:
        """Whether sessions may submit: not once the limit is far exceeded."""
        return self.limit is None or self.used < excess(self.limit)

    def document(self) -> dict[str, int | bool | None]:
        """As it is shown to the principal."""
        return {"bundles": self.limit, "used": self.used, "room": self.room, "may_submit": self.may_submit}


def excess(limit: int) -> int:
    """So much is more than any client that keeps to the limit can have stored by mistake."""
    return _EXCESS_FACTOR * limit + _EXCESS_MARGIN


@dataclass(slots=True)
class _Known:
    """A count that was asked for, and what has been added here since."""

    used: int
    asked_at: float

    def is_stale(self, room: float) -> bool:
        """Whether to ask again: sooner where somebody is about to be refused because of it."""
        age_s = time.monotonic() - self.asked_at
        return age_s > (_FRESH_S if self.used <= room else _FRESH_NEAR_LIMIT_S)


class Backlog:
    """What is unfinished at endpoints, and what may be added. Counts may be a second old."""

    def __init__(
        self,
        lanes: Lanes,
        *,
        per_principal: int | None = MOST_BUNDLES_PER_PRINCIPAL,
        pools_of: Callable[[UUID, str], Iterable[str]] = lambda _endpoint, _principal: (),
    ) -> None:
        """`per_principal` is the limit where an endpoint's owner has set none; None is no limit. `pools_of` gives
        a principal's pools at an endpoint beside the default one."""
        self._lanes = lanes
        self._pools_of = pools_of
        self._per_principal = per_principal
        self._own: dict[tuple[UUID, str], _Known] = {}
        self._whole: dict[UUID, _Known] = {}

    async def admit(self, endpoint: EndpointRecord, principal: str, bundles: int) -> None:
        """Count bundles that are about to be stored. Raises `QueueFull` when there is no room for all of them."""
        limit, most = self.limit_of(endpoint), endpoint.queue_limits.bundles
        counted = []
        if limit is not None:
            own = await self._own_use(endpoint, principal, room=limit - bundles)
            if own.used + bundles > limit:
                raise _full(f"you have {own.used} unfinished bundles at {endpoint.name!r}", bundles, limit, own.used)
            counted.append(own)
        if most is not None:
            whole = await self._whole_use(endpoint, room=most - bundles)
            if whole.used + bundles > most:
                there = f"{endpoint.name!r} has {whole.used} unfinished bundles of all its users together"
                raise _full(there, bundles, most, whole.used)
            counted.append(whole)
        for known in counted:
            known.used += bundles

    async def standing(self, endpoint: EndpointRecord, principal: str) -> Standing:
        """How a principal stands at an endpoint."""
        own, limit = await self._own_use(endpoint, principal), self.limit_of(endpoint)
        rooms = [] if limit is None else [limit - own.used]
        most = endpoint.queue_limits.bundles
        if most is not None:
            rooms.append(most - (await self._whole_use(endpoint)).used)
        return Standing(limit=limit, used=own.used, room=max(0, min(rooms)) if rooms else None)

    async def excessive(
        self, find: Callable[[UUID], Awaitable[EndpointRecord | None]]
    ) -> AsyncIterator[tuple[EndpointRecord, str]]:
        """Who has so much unfinished, and where, that their sessions must end."""
        async for endpoint_id, principal, depth in self._lanes.deep(_EXCESS_MARGIN):
            endpoint = await find(endpoint_id)
            limit = None if endpoint is None else self.limit_of(endpoint)
            if endpoint is not None and limit is not None and depth.used >= excess(limit):
                yield endpoint, principal

    def limit_of(self, endpoint: EndpointRecord) -> int | None:
        """How many bundles of one principal may be unfinished there; None: any number."""
        set_by_owner = endpoint.queue_limits.bundles_per_principal
        return self._per_principal if set_by_owner is None else set_by_owner

    async def _own_use(self, endpoint: EndpointRecord, principal: str, *, room: float = math.inf) -> _Known:
        key = (endpoint.endpoint_id, principal)
        known = self._own.get(key)
        if known is None or known.is_stale(room):
            pools = (DEFAULT_POOL, *self._pools_of(*key))
            states = await asyncio.gather(*(self._lanes.state(key[0], pool, principal) for pool in pools))
            return _learned(self._own, key, known, sum(state.depth.used for state in states))
        return known

    async def _whole_use(self, endpoint: EndpointRecord, *, room: float = math.inf) -> _Known:
        known = self._whole.get(endpoint.endpoint_id)
        if known is None or known.is_stale(room):
            depths = await self._lanes.depths(endpoint.endpoint_id)
            return _learned(self._whole, endpoint.endpoint_id, known, sum(depth.used for depth in depths.values()))
        return known


def _learned(all_known: dict[K, _Known], key: K, before: _Known | None, used: int) -> _Known:
    """Remember an answer. Where several asked at once they share the first one, with what has been added to it since:
    each with an answer of its own would be let in, however little room there is."""
    first = all_known.get(key)
    if first is not None and first is not before:
        return first
    if len(all_known) >= _MOST_KNOWN:
        all_known.clear()
    known = all_known[key] = _Known(used, time.monotonic())
    return known


def _full(so_much: str, bundles: int, limit: int, used: int) -> QueueFull:
    wanted = "one more" if bundles == 1 else f"{bundles} more"
    advice = "try again when some of them have ended" if bundles <= limit else "submit fewer tasks at a time"
    return QueueFull(
        f"{so_much}, and {limit} are the limit there: no room for {wanted}; {advice}", limit=limit, used=used
    )
