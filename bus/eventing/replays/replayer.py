"""Works on all replays that are running, each under its lease: any number of these may stand by."""

from __future__ import annotations

import asyncio
import functools
import logging
from uuid import UUID

from headrace.bus.eventing.leases import Lease, Leases
from headrace.bus.eventing.replays.models import ReplayRecord
from headrace.bus.eventing.replays.run import FindSubscription, ReplayRun
from headrace.bus.eventing.rights import Rights
from headrace.bus.eventing.sending import Sender
from headrace.bus.eventing.subscriptions import CompiledSubscription
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record, Records

logger = logging.getLogger(__name__)

_MOST_KNOWN = 100


class Replayer:
    """Keeps the replays going. `run` until cancelled; what is under way then goes on with the next holder."""

    def __init__(
        self,
        connection: Connection,
        replays: Records[ReplayRecord],
        leases: Leases,
        sender: Sender,
        rights: Rights,
        find: FindSubscription,
    ) -> None:
        self._connection = connection
        self._replays = replays
        self._leases = leases
        self._sender = sender
        self._rights = rights
        self._find = find
        self._running: dict[str, int] = {}
        """Those that are to go on, with the revisions that say so."""
        self._kept: set[str] = set()
        self._runs: dict[str, ReplayRun] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. Raises `BusUnavailable`."""
        watch = await self._replays.watch(self._changed)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    for key in self._running.keys() - self._kept:
                        self._kept.add(key)
                        group.create_task(self._keep(key), name=f"replay {key}")
                    self._news.clear()
                    await self._news.wait()
        finally:
            await watch.stop()

    def _changed(self, key: str, record: Record[ReplayRecord] | None) -> None:
        if record is not None and record.value.state == "running":
            self._running[key] = record.revision
        else:
            self._running.pop(key, None)
            if key in self._runs:
                self._runs[key].stop.set()
        self._news.set()

    async def _keep(self, key: str) -> None:
        try:
            await self._leases.keep(f"replay.{key}", functools.partial(self._work, key))
        finally:
            self._kept.discard(key)
            self._news.set()  # It may have been resumed in this moment.

    async def _work(self, key: str, _lease: Lease) -> None:
        row = await self._replays.get(key)
        if row is None or row.value.state != "running":
            # Unless it was resumed since it was read.
            if row is None or self._running.get(key, 0) <= row.revision:
                self._running.pop(key, None)
            return
        run = self._runs[key] = ReplayRun(
            self._connection, self._replays, row, sender=self._sender, rights=self._rights, find=self._find
        )
        logger.info(
            "Replay %s goes on behind event %d.",
            key,
            row.value.position,
            extra={"action": "replay_goes_on", "replay": key, "holder": self._leases.holder},
        )
        try:
            await run.work()
        finally:
            del self._runs[key]


def finder(replays: Records[ReplayRecord], find: FindSubscription) -> FindSubscription:
    """Finds subscriptions, and those that replays with a target of their own stand for."""
    # They never change, and each result of theirs asks.
    known: dict[UUID, CompiledSubscription] = {}

    async def find_either(subscription_id: UUID) -> CompiledSubscription | None:
        found = known.get(subscription_id) or await find(subscription_id)
        if found is not None:
            return found
        replay = await replays.get(subscription_id.hex)
        if replay is None or replay.value.own is None:
            return None
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known[subscription_id] = CompiledSubscription.of(replay.value.own)
        return known[subscription_id]

    return find_either
