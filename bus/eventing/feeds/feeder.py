"""Reads all feeds, each of them in one process at a time: which one, leases decide."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from headrace.bus.errors import BusError, FilterInvalid
from headrace.bus.eventing.feeds.counting import Counts
from headrace.bus.eventing.feeds.models import FeedRecord
from headrace.bus.eventing.feeds.reading import FeedReader
from headrace.bus.eventing.feeds.shaping import templates_of
from headrace.bus.eventing.leases import Lease, Leases
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.steadfast import run_steadfastly
from headrace.bus.network import DIRECT, Network
from headrace.bus.store.records import Record
from headrace.bus.store.tables import Tables

logger = logging.getLogger(__name__)

_STATUS_EVERY_S = 2.0
_STATUS_KEPT_S = 30.0
_STATUS_AGAIN_S = 10.0


class Feeder:
    """Reads the feeds whose leases this process gets. `run` until cancelled."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        tables: Tables,
        *,
        network: Network = DIRECT,
        count: Callable[[str, int], None] = lambda _what, _number: None,
    ) -> None:
        """`network` leads to other servers; `count` is told of what is counted (`COUNTED`)."""
        self._connection = connection
        self._keys = keys
        self._tables = tables
        self._network = network
        self._count = count
        self._leases = Leases(tables.leases)
        self._publishing = Publishing(connection, tables.buses, tables.users)
        self._changes: asyncio.Queue[tuple[str, FeedRecord | None]] = asyncio.Queue()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, FeedRecord] = {}
        self._held: set[str] = set()

    async def run(self) -> None:
        """Read feeds until cancelled. A lost bus is waited for."""
        await run_steadfastly(self._connection, self._run, who="feeder", logger=logger)

    async def _run(self) -> None:
        self._running, self._known = {}, {}
        watch = await self._tables.feeds.watch(self._changed)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._leases.run(), name="leases of feeds")
                while True:
                    key, feed = await self._changes.get()
                    await self._change(key, feed, group)
        finally:
            await watch.stop()

    def _changed(self, key: str, record: Record[FeedRecord] | None) -> None:
        self._changes.put_nowait((key, None if record is None else record.value))

    async def _change(self, key: str, feed: FeedRecord | None, group: asyncio.TaskGroup) -> None:
        before, held = self._known.pop(key, None), key in self._held
        if feed is not None:
            self._known[key] = feed
        if before == feed:
            return
        running = self._running.pop(key, None)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        if feed is None and before is not None and held:
            # Whoever read it tidies up; it has the other server's time limit.
            group.create_task(self._reader(before).forget(), name=f"forget {key}")
        if feed is not None and not feed.paused:
            try:
                templates_of(feed)
            except FilterInvalid as error:
                logger.error(
                    "The feed %s cannot be used by this release: %s",
                    feed.feed_id,
                    error,
                    extra={"action": "feed_unusable", "feed": str(feed.feed_id)},
                )
                return
            self._running[key] = group.create_task(self._keep(key, feed), name=f"feed {key}")

    async def _keep(self, key: str, feed: FeedRecord) -> None:
        async def read(_lease: Lease) -> None:
            self._held.add(key)
            counts = Counts(self._leases.holder)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write_status(key, counts), name=f"status of {key}")
                    await self._reader(feed).read(counts)
            finally:
                self._held.discard(key)
                counts.tell(self._count)

        await self._leases.keep(feed.lease, read)

    async def _write_status(self, key: str, counts: Counts) -> None:
        loop = asyncio.get_running_loop()
        last, written_at = None, 0.0
        while True:
            counts.tell(self._count)
            status = counts.status()
            now = (status.state, status.problem, status.received, status.stored, status.refused, status.lost)
            if now != last or loop.time() - written_at > _STATUS_AGAIN_S:
                # Nobody waits for it: a bus that is away hears of it later.
                with contextlib.suppress(BusError):
                    await self._tables.feed_status.put(key, status, ttl_s=_STATUS_KEPT_S)
                    last, written_at = now, loop.time()
            await asyncio.sleep(_STATUS_EVERY_S)

    def _reader(self, feed: FeedRecord) -> FeedReader:
        return FeedReader(self._connection, self._keys, self._publishing, self._network, feed)
