"""That tasks have started: stored before they do, if they must not run twice; told afterwards, if they take long."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from uuid import UUID

from headrace.bus.errors import AlreadyStored, BusError, BusUnavailable, TaskLost
from headrace.bus.ids import split_task_id
from headrace.bus.nats.connection import MESSAGE_ID_HEADER, Connection
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.in_hand import InHand
from headrace.endpoint.agent.result_log import ResultLog
from headrace.endpoint.agent.side_tasks import SideTasks
from headrace.endpoint.engines.engine import Call, Engine

logger = logging.getLogger(__name__)

STARTED_MARK_S = 0.1

_RETRY_S = 1.0


class StartedMarks:
    """Marks of tasks that must not run twice."""

    def __init__(
        self,
        connection: Connection,
        in_hand: InHand,
        results: ResultLog,
        tasks: SideTasks,
        engine: Callable[[], Engine],
    ) -> None:
        self._connection = connection
        self._in_hand = in_hand
        self._results = results
        self._tasks = tasks
        self._engine = engine
        self.under_way = 0
        """How many marks are being stored."""
        self.ready: list[Call] = []
        """Calls whose mark is stored: they go to the next worker that has room."""

    def mark(self, held: Held, call: Call) -> None:
        """Store that a task has started which must not run twice; only then is it ready."""
        self.under_way += 1
        self._tasks.spawn(self._mark(held, call), "started mark", held)

    def remove(self, keys: Collection[UUID]) -> list[Call]:
        """Take these calls from those that are ready; the ones that were."""
        removed = [call for call in self.ready if call.key in keys]
        if removed:
            self.ready = [call for call in self.ready if call.key not in keys]
        return removed

    async def _mark(self, held: Held, call: Call) -> None:
        index = split_task_id(call.key)[1]
        try:
            is_first = await self._store(held.address.started_subject(index))
        finally:
            self.under_way -= 1
        if self._in_hand.has(held):
            self._on_mark(held, index, call, is_first)
        self._engine().wake()

    def _on_mark(self, held: Held, index: int, call: Call, is_first: bool) -> None:
        if not is_first:
            lost = "the task had started when its pool was lost, and it must not run twice (rerun_on_loss=False)"
            self._results.end(held, index, TaskLost(lost))
        elif held.control.cancels(index):
            self._results.end_cancelled(held, index)
        else:
            self.ready.append(call)
        self._results.settle(held)

    async def _store(self, subject: str) -> bool:
        """Whether the mark is ours: a repetition of our own, whose answer was lost, is known by its message id."""
        headers = {MESSAGE_ID_HEADER: uuid.uuid4().hex}
        while True:
            try:
                await self._connection.store(subject, b"", headers=headers, timeout_s=None)
                return True
            except AlreadyStored:
                return False
            except BusError as error:
                logger.warning("The start of a task could not be stored (%s); trying again.", error)
                await asyncio.sleep(_RETRY_S)


async def tell_started(connection: Connection, in_hand: InHand, engine: Engine) -> None:
    """Tell of tasks that run for a while, once each, so that their futures can say that they run. Until cancelled."""
    seen: set[UUID] = set()
    told: set[UUID] = set()
    while True:
        await asyncio.sleep(STARTED_MARK_S)
        running = set(engine.running())
        for key in (running & seen) - told:
            bundle, index = split_task_id(key)
            held = in_hand.bundles.get(bundle)
            if held is not None:
                with suppress(BusUnavailable):
                    await connection.publish(held.address.started_subject(index))
        told = running & (told | seen)
        seen = running
