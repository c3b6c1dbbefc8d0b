"""The sinks of all subscriptions at work, each by itself: one that is slow, or dead, keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Set
from typing import Final
from uuid import UUID

import msgspec

from headrace.bus.errors import BusError, BusUnavailable, RecordMissing, SignatureInvalid
from headrace.bus.eventing.leases import Leases
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.sinks.models import Secrets, Sink, revealed
from headrace.bus.eventing.sinks.settings import SinkSettings
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record
from headrace.bus.store.tables import Tables

logger = logging.getLogger(__name__)

_PAUSE_S: Final = 2.0


class SinkRunner:
    """Sends to every sink there is. `run` until cancelled."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        tables: Tables,
        runs: TickRuns,
        leases: Leases,
        settings: SinkSettings,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._tables = tables
        self._runs = runs
        self._leases = leases
        self._settings = settings
        self._worker = f"{socket.gethostname()}/{os.getpid()}"
        self._wanted: dict[UUID, SubscriptionRecord] = {}
        self._leaving: dict[UUID, set[asyncio.Task[None]]] = {}
        """Pipelines that were stopped, by their sinks, until they have ended."""
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Send until cancelled. Raises `BusUnavailable`."""
        self._wanted.clear()
        watch = await self._tables.subscriptions.watch(self._changed)
        working: dict[UUID, tuple[SubscriptionRecord, asyncio.Task[None]]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._settle(group, working)
                    await self._news.wait()
                    self._news.clear()
        finally:
            await watch.stop()

    async def _settle(
        self, group: asyncio.TaskGroup, working: dict[UUID, tuple[SubscriptionRecord, asyncio.Task[None]]]
    ) -> None:
        """Have a pipeline for each sink as it is now."""
        for subscription_id, (record, task) in list(working.items()):
            wanted = self._wanted.get(subscription_id)
            if wanted is None or _settings_of(wanted) != _settings_of(record):
                del working[subscription_id]
                task.cancel()
                self._leaving.setdefault(subscription_id, set()).add(task)
        for subscription_id, record in list(self._wanted.items()):
            if subscription_id not in working:
                leaving = frozenset(self._leaving.get(subscription_id, ()))
                task = group.create_task(self._keep(record, leaving), name=f"sink of {subscription_id}")
                working[subscription_id] = record, task
        left = {each: {task for task in tasks if not task.done()} for each, tasks in self._leaving.items()}
        self._leaving = {each: tasks for each, tasks in left.items() if tasks}

    async def _keep(self, record: SubscriptionRecord, leaving: Set[asyncio.Task[None]]) -> None:
        """Work for one sink; what goes wrong there is told, and tried again."""
        if leaving:
            # What they have in hand goes back first: a lease, or a consumer, is not to be used by two of ours. That may
            # take a while, for which no other sink waits. Of several changes in that time each stops a pipeline, so
            # the last one may have ended long before the first.
            await asyncio.wait(leaving)
        while True:
            try:
                # One dispatcher for each sink: its rate, and what it says with Retry-After, are the same for all.
                await self._leases.keep(f"sink-{record.subscription_id.hex}", lambda _lease: self._work(record))
            except* BusUnavailable:
                raise
            except* (BusError, ValueError, OSError) as failed:
                logger.error(
                    "Nothing is sent to the sink of subscription %s (%s); trying again.",
                    record.subscription_id,
                    failed.exceptions[0],
                    extra={"action": "sink_unusable", "subscription": str(record.subscription_id)},
                )
            await asyncio.sleep(_PAUSE_S)

    async def _work(self, record: SubscriptionRecord) -> None:
        # Only where there is a sink at all: these take a while to load.
        from headrace.bus.eventing.sinks.client import SinkClient
        from headrace.bus.eventing.sinks.pipeline import Pipeline

        sink = record.target
        if sink is None:
            return
        client = SinkClient(
            sink.url,
            self._settings.policy,
            context=self._settings.context_for(sink),
            timeout_s=sink.timeout_s,
            connections=sink.concurrency,
        )
        async with client:
            await Pipeline(
                self._connection,
                self._keys,
                record,
                sink,
                self._secrets(record, sink),
                client,
                self._runs,
                on_gone=lambda: self._is_gone(record.subscription_id),
                worker=self._worker,
            ).run()

    def _secrets(self, record: SubscriptionRecord, sink: Sink) -> Secrets | None:
        try:
            return revealed(self._keys, record.subscription_id, sink)
        except SignatureInvalid:
            return None

    async def _is_gone(self, subscription_id: UUID) -> None:
        def gone(record: SubscriptionRecord) -> SubscriptionRecord:
            if record.target is None or record.target.gone_at:
                return record
            return msgspec.structs.replace(record, target=msgspec.structs.replace(record.target, gone_at=time.time()))

        with contextlib.suppress(RecordMissing):
            await self._tables.subscriptions.change(subscription_id.hex, gone)
        logger.warning(
            "The sink of subscription %s is gone for good (HTTP 410); what comes for it becomes dead letters.",
            subscription_id,
            extra={"action": "sink_gone", "subscription": str(subscription_id)},
        )

    def _changed(self, key: str, record: Record[SubscriptionRecord] | None) -> None:
        self._wanted.pop(UUID(key), None)
        if record is not None and record.value.target is not None and record.value.pauses.now is None:
            self._wanted[UUID(key)] = record.value
        self._news.set()


def _settings_of(record: SubscriptionRecord) -> tuple[object, ...]:
    """What a pipeline goes by."""
    return record.target, record.owner, record.retry, record.pauses
