"""Whether a subscription's owner may still run its function at its endpoint: asked before every delivery.

The records are watched, so an answer costs no reading, and a withdrawn right counts within milliseconds. What is not
known is read before it is called missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar
from uuid import UUID

import msgspec

from headrace.bus.errors import DeliveryForbidden
from headrace.bus.eventing.buses import BusRecord
from headrace.bus.eventing.standing import urns_of
from headrace.bus.functions.requirements import Needs
from headrace.bus.names import DEFAULT_BUS
from headrace.bus.store.models import EndpointRecord, FunctionRecord, UserRecord
from headrace.bus.store.records import Record, Records, Watch
from headrace.bus.store.tables import Tables
from headrace.bus.urns import canonical

T = TypeVar("T", bound=msgspec.Struct)


class Rights:
    """The rights of owners. `start` reads the tables, `stop` ends the watching."""

    def __init__(self, tables: Tables) -> None:
        self._functions: _Watched[FunctionRecord] = _Watched(tables.functions)
        self._endpoints: _Watched[EndpointRecord] = _Watched(tables.endpoints)
        self._users: _Watched[UserRecord] = _Watched(tables.users)
        self._buses: _Watched[BusRecord] = _Watched(tables.buses)
        self._watched = (self._functions, self._endpoints, self._users, self._buses)

    async def start(self) -> None:
        """Read all and watch. Raises `BusUnavailable`."""
        for watched in self._watched:
            await watched.start()

    async def stop(self) -> None:
        """End the watching."""
        for watched in self._watched:
            await watched.stop()

    async def check(
        self, owner: str, function_id: UUID, endpoint_id: UUID, linked: Iterable[str] = ()
    ) -> EndpointRecord:
        """The endpoint; `linked` are other identities of the owner.

        Raises `DeliveryForbidden`, which says what is in the way, and `BusUnavailable`.
        """
        names = (owner, *linked)
        urns = await self.urns(owner, linked)
        if urns is None:
            raise DeliveryForbidden(f"the owner of the subscription, {owner}, is no user any more")
        function = await self._functions.get(function_id.hex)
        if function is None or not any(map(function.visible_to, names)):
            raise DeliveryForbidden(f"there is no function {function_id} that {owner} may use (any more)")
        endpoint = await self._endpoints.get(endpoint_id.hex)
        if endpoint is None or not endpoint.visible_to(urns):
            raise DeliveryForbidden(f"there is no endpoint {endpoint_id} that {owner} may use (any more)")
        if endpoint.authentication_policy is not None and canonical(endpoint.owner) not in urns:
            raise DeliveryForbidden(
                f"endpoint {endpoint.name!r} asks how its users have signed in; only its owner's events run there"
            )
        if not endpoint.allows(function):
            raise DeliveryForbidden(f"function {function_id} is not on the allow list of endpoint {endpoint.name!r}")
        return endpoint

    async def needs(self, function_id: UUID) -> Needs:
        """What a function needs where it runs; nothing when there is no such function. Raises `BusUnavailable`."""
        function = await self._functions.get(function_id.hex)
        return Needs() if function is None else function.needs

    async def urns(self, owner: str, linked: Iterable[str] = ()) -> frozenset[str] | None:
        """The names and groups of an owner, as `headrace.bus.eventing.standing.urns_of` gives them."""
        return await urns_of(self._users.get, owner, linked)

    async def may_read(self, owner: str, bus: str, linked: Iterable[str] = ()) -> bool:
        """Whether an owner may (still) subscribe to a bus. Raises `BusUnavailable`."""
        if bus == DEFAULT_BUS:
            return True
        record = await self._buses.get(bus)
        urns = await self.urns(owner, linked)
        return record is not None and record.is_there and urns is not None and record.lets_subscribe(urns)


class _Watched(Generic[T]):
    """A table in memory."""

    def __init__(self, records: Records[T]) -> None:
        self._records = records
        self._known: dict[str, T] = {}
        self._watch: Watch[T] | None = None

    async def start(self) -> None:
        self._watch = await self._records.watch(self._changed)

    async def stop(self) -> None:
        if self._watch is not None:
            await self._watch.stop()

    async def get(self, key: str) -> T | None:
        known = self._known.get(key)
        if known is not None:
            return known
        found = await self._records.get(key)
        return None if found is None else found.value

    def _changed(self, key: str, record: Record[T] | None) -> None:
        if record is None:
            self._known.pop(key, None)
        else:
            self._known[key] = record.value
