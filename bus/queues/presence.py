"""Who is there: an endpoint is online while one of its managers gives signs of life. There is one on each machine."""

from __future__ import annotations

import contextlib
from uuid import UUID

import msgspec

from headrace.bus.errors import RecordConflict
from headrace.bus.names import token
from headrace.bus.store.models import PresenceRecord
from headrace.bus.store.records import Records

_UNNAMED = "0"
"""Stands for a manager of an earlier release, which has no name."""


class Presence:
    """The signs of life of all managers."""

    def __init__(self, records: Records[PresenceRecord]) -> None:
        self._records = records

    async def ensure(self, *, replicas: int = 1) -> None:
        """Create the bucket where it is missing."""
        # Whoever is there says so again soon.
        await self._records.ensure(replicas=replicas, is_fleeting=True)

    async def of(self, endpoint: UUID) -> list[PresenceRecord]:
        """Those of an endpoint, the latest first. Raises `BusUnavailable`."""
        records = await self._records.list(f"{endpoint.hex}.")
        return sorted((each.value for each in records), key=lambda each: -each.seen_at)

    async def managers(self, endpoint: UUID) -> set[str]:
        """The names of the managers of an endpoint that are there. Raises `BusUnavailable`."""
        return {each.manager for each in await self.of(endpoint)}

    async def is_online(self, endpoint: UUID) -> bool:
        """Whether any manager of the endpoint is there. Raises `BusUnavailable`."""
        return bool(await self.of(endpoint))

    async def online(self) -> set[UUID]:
        """All endpoints that are there. Raises `BusUnavailable`."""
        return {each.value.endpoint_id for each in await self._records.list()}

    async def tell(self, record: PresenceRecord, *, ttl_s: float) -> None:
        """Keep a sign of life for so long. Raises `BusUnavailable`."""
        await self._records.put(_key(record.endpoint_id, record.manager), record, ttl_s=ttl_s)

    async def doubt(self, endpoint: UUID, manager: str, *, ttl_s: float) -> None:
        """A manager whose signs are rare may be gone: it has so long to give one. Raises `BusUnavailable`."""
        record = await self._records.get(_key(endpoint, manager))
        if record is not None and record.value.quiet:
            with contextlib.suppress(RecordConflict):  # it has just given one
                await self._records.update(record, msgspec.structs.replace(record.value, quiet=False), ttl_s=ttl_s)

    async def end(self, endpoint: UUID, manager: str) -> None:
        """Forget one manager at once. Raises `BusUnavailable`."""
        await self._records.delete(_key(endpoint, manager))

    async def remove(self, endpoint: UUID) -> None:
        """Forget all managers of an endpoint. Raises `BusUnavailable`."""
        for record in await self._records.list(f"{endpoint.hex}."):
            await self._records.delete(record.key)


def _key(endpoint: UUID, manager: str) -> str:
    return f"{endpoint.hex}.{token(manager or _UNNAMED)}"
