"""Records that are read far more often than they change: those read a moment ago are believed for a moment."""

from __future__ import annotations

import time
from typing import Final, TypeVar

import msgspec

from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.store.records import Record, Records

T = TypeVar("T", bound=msgspec.Struct)

BELIEVED_S: Final = 1.0
_MOST_KNOWN = 10_000


class RecentRecords(Records[T]):
    """Records with `recent`, which asks the bus only for what it has not read within the last second.

    A change that is made here is seen at once. One that is made elsewhere is told of by the bus when it is stored;
    should that be lost, it is seen after a second. Before `listen`, `recent` is `get`.
    """

    def __init__(self, connection: Connection, name: str, kind: type[T]) -> None:
        super().__init__(connection, name, kind)
        self._known: dict[str, tuple[Record[T], float]] = {}
        self._changes = 0
        self._listening = False

    async def listen(self) -> None:
        """Hear of changes from now on, for as long as the connection lasts. Raises `BusUnavailable`."""
        if not self._listening:
            await self._connection.subscribe(f"changed.{self.name}.>", self._on_change)
            self._connection.on_connected.append(self._forget_all)
            await self._connection.flush()
            self._listening = True

    async def recent(self, key: str) -> Record[T] | None:
        """As `get`, at most a second old."""
        known = self._known.get(key)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        changes = self._changes
        found = await self.get(key)
        # What changed while it was under way may be older than the change.
        if found is not None and self._listening and changes == self._changes:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = (found, time.monotonic() + BELIEVED_S)
        return found

    async def _put(self, key: str, value: T, *, expected: int | None = None, ttl_s: float | None = None) -> int:
        try:
            return await super()._put(key, value, expected=expected, ttl_s=ttl_s)
        finally:
            self._forget(key)

    async def delete(self, key: str) -> None:
        """Remove a record; nothing happens when there is none."""
        try:
            await super().delete(key)
        finally:
            self._forget(key)

    async def remove(self, record: Record[T], *, marker_ttl_s: float | None = None) -> None:
        """Remove a record that must not have changed since it was read. Raises `RecordConflict`."""
        try:
            await super().remove(record, marker_ttl_s=marker_ttl_s)
        finally:
            self._forget(record.key)

    def _on_change(self, message: Message) -> None:
        self._forget(message.subject.split(".", 2)[2])

    def _forget(self, key: str) -> None:
        self._changes += 1
        self._known.pop(key, None)

    def _forget_all(self) -> None:
        self._changes += 1
        self._known.clear()
