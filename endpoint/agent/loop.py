"""The agent: the loop inside a pool that takes bundles, feeds the engine and stores results.

    taken      a bundle comes from TASKS; its MAC is checked before anything inside is looked at
    prepared   only if needed: results of an earlier life and cancellations are read, code is fetched
    waiting    its calls wait in turns until the engine has room
    stored     outcomes are stored in parts, one part of a bundle at a time; what comes meanwhile goes into the next
    acked      once every task has a stored result

A crash at any place leaves a bundle that is not acked: it comes again, to us or to another pool, and only what has no
stored result runs again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from uuid import UUID

from headrace.bus.data.encodings import OBJECT
from headrace.bus.errors import BusError, DecodeError, FunctionUnusable, SignatureInvalid, SubmissionRefused, TaskError
from headrace.bus.functions.allow_list import AllowList
from headrace.bus.functions.code import FunctionCode
from headrace.bus.ids import split_task_id, task_id
from headrace.bus.names import Address, lane_news, pool_controls
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.nats.pull import Delivery
from headrace.bus.queues.lane_news import decode_news
from headrace.bus.tasks.bundles import Runtime, Task, TaskResult, bundle_key_expiry
from headrace.bus.tasks.control import Control
from headrace.bus.tasks.results import read_parts
from headrace.endpoint.agent.acks import Acks
from headrace.endpoint.agent.code_cache import CodeCache
from headrace.endpoint.agent.controls import Controls
from headrace.endpoint.agent.functions import Functions
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.in_hand import InHand
from headrace.endpoint.agent.intake import Intake
from headrace.endpoint.agent.lanes import PoolLanes
from headrace.endpoint.agent.large_payloads import LargePayloads
from headrace.endpoint.agent.objects import ObjectDesk
from headrace.endpoint.agent.pace import Pace
from headrace.endpoint.agent.patience import Patience, ServerClock
from headrace.endpoint.agent.peer_messages import PROCESS_BYTES
from headrace.endpoint.agent.peers import Peers
from headrace.endpoint.agent.position import Position
from headrace.endpoint.agent.result_log import ResultLog
from headrace.endpoint.agent.side_tasks import SideTasks
from headrace.endpoint.agent.started import StartedMarks, tell_started
from headrace.endpoint.agent.suspects import TRUSTED_DELIVERIES, Suspects
from headrace.endpoint.agent.task_logs import TaskLogs
from headrace.endpoint.agent.turns import Turns
from headrace.endpoint.agent.waiting import WaitingCalls
from headrace.endpoint.engines.engine import Call, Engine, Outcome, OutcomesCallback, Source
from headrace.endpoint.fair_share import FairShare
from headrace.endpoint.grant import PoolGrant, PoolService

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_HANDED_BACK_S = 1
_BETWEEN_S = 0.25
_EXPIRED = (
    "the task was stored so long after it was signed that the key had expired (its client was suspended, or the bus "
    "did not answer): submit it again"
)


class Agent:
    """Serves one pool. `run` until cancelled, then `drain`.

    `engine_of(source, on_outcomes)` makes the engine; each of the `allow_lists` must let a function run, `refusal` is
    why nothing runs here. `logs` is what the engine gives the output of calls to, if it gives it to anybody. `objects`
    makes the desk for large payloads, from what gives the code token; None refuses them.
    """

    def __init__(
        self,
        service: PoolService,
        connection: Connection,
        grant: PoolGrant,
        engine_of: Callable[[Source, OutcomesCallback], Engine],
        *,
        runtime: Runtime,
        allow_lists: Sequence[AllowList] = (),
        refusal: str | None = None,
        needs: str = "",
        on_stored: Callable[[Held, list[TaskResult]], None] | None = None,
        logs: TaskLogs | None = None,
        objects: Callable[[Callable[[], str]], ObjectDesk] | None = None,
        fair_share: FairShare | None = None,
    ) -> None:
        self._connection = connection
        self._grant = grant
        self._draining = False
        self._in_hand = in_hand = InHand()
        self._tasks = tasks = SideTasks(on_death=self._hand_back)
        self._clock = ServerClock()
        self._clock.learn(grant.bus_time)
        self._patience = Patience(self._clock)
        self._pace = Pace()
        self._logs = logs or TaskLogs(connection)
        self._logs.held = in_hand.bundles
        self._acks = Acks(connection, tasks)
        process = secrets.token_bytes(PROCESS_BYTES)
        self._intake = Intake(self._granted, in_hand, self._acks, process=process)
        self._peers = Peers(
            connection,
            tasks,
            process=process,
            endpoint=grant.endpoint,
            pool=grant.pool,
            holds=in_hand.bundles.__contains__,
        )
        self._functions = Functions(CodeCache(service), self._granted, allow_lists, refusal, needs)
        self._controls = Controls(connection, self._granted)
        self._position = Position(service, tasks, self._on_lanes)
        self._lanes = PoolLanes(
            connection,
            self._on_delivery,
            wanted=self._wanted,
            is_full=lambda: in_hand.is_full,
            fair_share=fair_share or FairShare(),
        )
        self._results = results = ResultLog(
            connection,
            runtime,
            tasks,
            on_end=self._on_end,
            on_change=lambda held: self._lanes.note(held, is_held=in_hand.has(held)),
            on_complete=self._let_go,
            on_noted=self._on_noted,
            on_stored=on_stored,
        )
        turns = Turns(fair_share or FairShare())
        desk = None if objects is None else objects(lambda: self._grant.code_token)
        self._payloads = LargePayloads(desk, in_hand, turns, results, tasks, self._engine)
        marks = StartedMarks(connection, in_hand, results, tasks, self._engine)
        self._suspects = suspects = Suspects(results, turns.ended)
        self._waiting = WaitingCalls(
            in_hand, turns, self._clock, results, marks, suspects, self._payloads, self._engine
        )
        self.engine = engine_of(self._waiting, self._on_outcomes)

    async def run(self) -> None:
        """Take and run bundles until cancelled. Raises when the engine or a side task fails for good."""
        await self.engine.start()
        await self._connection.subscribe(pool_controls(self._grant.endpoint, self._grant.pool), self._on_control)
        await self._peers.join()
        self._connection.on_connected.append(self._on_connected)
        self._lanes.adopt(self._grant.lanes)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lanes.run(), name="pull bundles")
            group.create_task(self._acks.keep_in_progress(self._in_hand), name="in progress")
            group.create_task(tell_started(self._connection, self._in_hand, self.engine), name="started marks")
            group.create_task(self._patience.run(self._on_patience_end), name="queue time-outs")
            group.create_task(self._position.learn(), name="position")

    async def drain(self, grace_s: float) -> None:
        """Give running tasks `grace_s` to end, store what is there, and hand the rest back."""
        self._draining = self._waiting.is_closed = True
        deadline = time.monotonic() + grace_s + 2.0
        # What still runs must not be given to another pool meanwhile.
        self._tasks.spawn(self._acks.keep_in_progress(self._in_hand), "in progress")
        await self.engine.stop(grace_s=grace_s)
        for held in list(self._in_hand.bundles.values()):
            self._suspects.hand_back(held)
        while time.monotonic() < deadline and (
            self._payloads.keeping or any(held.storing or held.has_news for held in self._in_hand.bundles.values())
        ):
            await self._tasks.wait(0.1)
        await self._acks.flush()
        await self._logs.drain(max(0.0, deadline - time.monotonic()))
        await self._peers.leave()
        await self._acks.give_back(self._in_hand.bundles.values())
        await self._tasks.end()

    def adopt(self, grant: PoolGrant) -> None:
        """Go on with a renewed grant, before the connection moves to it: then nothing comes that it cannot check."""
        self._grant = grant
        self._clock.learn(grant.bus_time)
        self._on_lanes(grant)

    @property
    def bytes_taken(self) -> int:
        """How much has been taken since the start."""
        return self._in_hand.bytes_taken

    @property
    def status(self) -> dict[str, int]:
        """How busy this pool is."""
        load = self.engine.load()
        return {
            "workers": load.workers,
            "busy": load.busy,
            "queued": load.queued + len(self._waiting),
            "bundles": len(self._in_hand.bundles),
            "taken": self._in_hand.bytes_taken,
        }

    # What the others ask of us, because it changes or comes after them

    def _granted(self) -> PoolGrant:
        return self._grant

    def _engine(self) -> Engine:
        return self.engine

    def _on_lanes(self, grant: PoolGrant) -> None:
        self._lanes.adopt(grant.lanes)
        self._peers.look()

    def _on_end(self, key: UUID) -> None:
        self._waiting.ended(key)

    def _on_noted(self, held: Held, indices: list[int]) -> None:
        self._suspects.noted(held, indices)
        self.engine.wake()

    # Taken

    def _wanted(self) -> int:
        """How many tasks to have in hand."""
        return 0 if self._draining else self._pace.wanted(self.engine.load().workers)

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._draining:
            return  # never acked: it comes again elsewhere
        held = self._intake.take(delivery)
        if held is None:
            return
        self._lanes.note(held)
        self._clock.learn(held.stored_at)
        if delivery.stored_ns > bundle_key_expiry(delivery.data) * 1_000_000_000:
            self._refuse_expired(held)
            return
        in_doubt = self._in_doubt(held)
        is_unsure = in_doubt or delivery.sequence <= self._position.unsure_up_to or delivery.deliveries > 1
        has_past = is_unsure or delivery.retry
        codes = self._functions.known_codes(held)
        if has_past or codes is None:
            held.is_suspect = delivery.deliveries > TRUSTED_DELIVERIES
            prepared = self._prepare(held, has_past=has_past, is_unsure=is_unsure, in_doubt=in_doubt)
            self._tasks.spawn(prepared, "prepare", held)
        else:
            self._take_early_control(held)
            self._let_wait(held, codes)

    def _refuse_expired(self, held: Held) -> None:
        """End the tasks of a bundle that is genuine, but was stored after the key that signed it had expired."""
        for index in list(held.open):
            self._results.end(held, index, SubmissionRefused(_EXPIRED))
        self._results.settle(held)

    # Prepared

    def _in_doubt(self, held: Held) -> bool:
        """Whether another pool may have it in hand although it was given to us."""
        return self._position.is_lost or held.sequence <= self._lanes.remade_up_to(held.address.principal)

    async def _prepare(self, held: Held, *, has_past: bool, is_unsure: bool, in_doubt: bool) -> None:
        # Before anything else: what somebody has begun looks like lost to whoever reads the past meanwhile.
        if in_doubt and await self._peers.hold(held.address.bundle, unless=lambda: not self._in_doubt(held)):
            # Neither acked nor handed back: the holder says that it is in progress, until it is done or dies.
            self._forget(held)
            return
        self._take_early_control(held)
        if has_past:
            await self._read_past(held, is_unsure=is_unsure)
        self._let_wait(held, await self._functions.codes(held))

    def _take_early_control(self, held: Held) -> None:
        held.control = self._controls.early(held.address.bundle) or held.control

    async def _read_past(self, held: Held, *, is_unsure: bool) -> None:
        """Results, and where we are unsure cancellations, that were stored before we took the bundle.

        One that is only repeated came for the first time while we listened: of its earlier life there are all results,
        or it had none, and what was cancelled since we have heard.
        """
        while True:
            try:
                parts = await read_parts(self._connection, held.address, held.bundle.result_keys)
                control = await self._controls.stored(held.address) if is_unsure else None
                break
            except BusError as error:
                logger.warning("Reading the past of a bundle: %s; trying again.", error)
                await asyncio.sleep(_RETRY_S)
        held.merge(parts)
        held.is_suspect = held.is_suspect or any(held.losses.values())
        held.control = control or held.control

    # Waiting

    def _let_wait(self, held: Held, codes: Iterable[FunctionCode | TaskError]) -> None:
        table = list(codes)
        self._results.end_late(held, held.late(self._clock.now()))
        for end in held.ends():
            self._patience.add(end, held.address.bundle, self._in_hand.bundles)
        control = None if held.control.is_empty else held.control
        for task in held.bundle.tasks:
            if task.index not in held.open or task.index in held.unstored:
                continue
            if control is not None and control.cancels(task.index):
                self._results.end_cancelled(held, task.index)
                continue
            code = table[task.function] if task.function < len(table) else FunctionUnusable("no such function")
            if isinstance(code, TaskError):
                self._results.end(held, task.index, code)
                continue
            self._waiting.put(held, _call(held, task, code))
        self._results.settle(held)
        self.engine.wake()

    def _on_patience_end(self, bundle: UUID) -> None:
        """End the tasks of a bundle that have waited too long, wherever in this pool they wait."""
        held = self._in_hand.bundles.get(bundle)
        if held is None:
            return
        limits_s = held.late(self._clock.now())
        keys = {task_id(bundle, index) for index in limits_s}
        waiting = {call.key for call in self._waiting.remove_unmarked(held, keys)}
        waiting.update(self.engine.take_back(keys - waiting))
        indices = [split_task_id(key)[1] for key in waiting]
        self._results.end_late(held, {index: limits_s[index] for index in indices})
        self._results.settle(held)
        # Some may be between two places: their mark is being stored, or they are on the way to a worker.
        if keys - waiting - set(self.engine.running()):
            self._patience.add(self._clock.now() + _BETWEEN_S, bundle, self._in_hand.bundles)

    # Stored

    def _on_outcomes(self, outcomes: list[Outcome]) -> None:
        # On its way before the results, so that who sees a result finds the whole log.
        self._logs.flush()
        touched: dict[UUID, Held] = {}
        worked_s = 0.0
        for outcome in outcomes:
            key = outcome.key
            bundle, index = split_task_id(key)
            self._waiting.ended(key)
            held = self._in_hand.bundles.get(bundle)
            worked_s += max(0.0, outcome.ended_at - outcome.started_at)
            if self._payloads.fetched and key in self._payloads.fetched:
                self._payloads.release(key)
            if held is None:
                continue
            result = TaskResult(
                index,
                outcome.state,
                outcome.encoding,
                outcome.value,
                taken_at=held.taken_at,
                started_at=outcome.started_at,
                ended_at=outcome.ended_at,
                attempts=outcome.attempts,
                worker=outcome.worker,
                log_end=outcome.log_end,
            )
            if outcome.encoding == OBJECT:
                self._payloads.keep(held, result)
            elif held.add(result):
                touched[bundle] = held
        for held in touched.values():
            self._results.settle(held)
        if outcomes:
            self._pace.learn(worked_s, len(outcomes))
            self._lanes.wake()

    # Acked, or handed back

    def _let_go(self, held: Held) -> None:
        if self._forget(held):
            self._acks.done(held)

    def _hand_back(self, held: Held) -> None:
        """Let go of a bundle that cannot be finished here now. It comes again, to us or to another pool."""
        if self._forget(held):
            keys = {task_id(held.address.bundle, index) for index in held.open}
            self._waiting.remove(held, keys)
            for key in keys:
                self._waiting.ended(key)
            self._acks.later(held.ack_subject, _HANDED_BACK_S)

    def _forget(self, held: Held) -> bool:
        if not self._in_hand.let_go(held):
            return False
        self._payloads.release_all(held)
        # There may be room again for which nothing else would wake them.
        self._lanes.note(held, is_held=False)
        self._lanes.wake()
        return True

    # Told by the service

    def _on_control(self, message: Message) -> None:
        if message.subject == lane_news(self._grant.endpoint, self._grant.pool):
            self._on_lane_news(message)
            return
        control = self._controls.decoded(message.data, message.subject)
        if control is None:
            return
        bundle = Address.of_task_subject(message.subject).bundle
        held = self._in_hand.bundles.get(bundle)
        if held is not None:
            self._apply(held, control)
        elif not self._controls.remember(bundle, control):
            self._position.lose()

    def _on_lane_news(self, message: Message) -> None:
        try:
            name = decode_news(message.data, subject=message.subject, pool_secret=self._grant.pool_secrets)
        except (SignatureInvalid, DecodeError) as error:
            # Signed with newer keys than our grant's, or not by the service: what it grants lists all lanes.
            logger.info("The news of a lane cannot be believed (%s); asking the service.", error)
            self._position.ask()
            return
        self._lanes.hear(name)

    def _apply(self, held: Held, control: Control) -> None:
        held.control = held.control.merged(control)
        keys = {task_id(held.address.bundle, i) for i in held.unfinished() if held.control.cancels(i)}
        if not keys:
            return
        for call in self._waiting.remove(held, keys):
            keys.discard(call.key)
            self._results.end_cancelled(held, split_task_id(call.key)[1])
        forced = {key for key in keys if held.control.forces(split_task_id(key)[1])}
        if forced:
            self.engine.cancel(forced, force=True)
        if keys - forced:
            self.engine.cancel(keys - forced, force=False)
        self._results.settle(held)

    def _on_connected(self) -> None:
        # Cancellations may have been missed, and bundles that we held may have been given to others.
        self._position.lose()
        for held in list(self._in_hand.bundles.values()):
            self._tasks.spawn(self._reread_control(held), "read cancellations")

    async def _reread_control(self, held: Held) -> None:
        with suppress(BusError):
            control = await self._controls.stored(held.address)
            if control is not None:
                self._apply(held, control)


def _call(held: Held, task: Task, code: FunctionCode) -> Call:
    return Call(
        key=task_id(held.address.bundle, task.index),
        function=held.bundle.functions[task.function].id,
        encoding=task.encoding,
        arguments=task.arguments,
        options=held.bundle.options[task.options],
        code=code,
    )
