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
import functools
import logging
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from headrace.bus.bundles import (
    Bundle,
    FunctionUse,
    ResultPart,
    Runtime,
    Task,
    TaskResult,
    bundle_key_expiry,
    decode_bundle,
    encode_part,
)
from headrace.bus.code import FunctionCode
from headrace.bus.connection import MESSAGE_ID_HEADER, Connection, Message
from headrace.bus.control import Control, decode_control
from headrace.bus.errors import (
    AlreadyStored,
    BusError,
    BusUnavailable,
    DecodeError,
    FunctionUnusable,
    ObjectMissing,
    PayloadTooLarge,
    ResultNotSerialisable,
    SignatureInvalid,
    SubmissionRefused,
    TaskCancelled,
    TaskError,
    TaskLost,
    WireVersionUnknown,
)
from headrace.bus.ids import split_task_id, task_id
from headrace.bus.keys import bundle_keys, check_function_grant
from headrace.bus.lane_news import decode_news
from headrace.bus.names import Address, lane_news, pool_controls
from headrace.bus.options import waited_too_long
from headrace.bus.pull import Delivery
from headrace.bus.results import read_parts
from headrace.bus.values import OBJECT
from headrace.endpoint.code_cache import CodeCache
from headrace.endpoint.engine import Call, Engine, Outcome, OutcomesCallback, Source
from headrace.endpoint.fair_share import FairShare
from headrace.endpoint.grant import PoolGrant, PoolService
from headrace.endpoint.held import Held, failed
from headrace.endpoint.lanes import PoolLanes
from headrace.endpoint.objects import ObjectDesk
from headrace.endpoint.patience import Patience, ServerClock
from headrace.endpoint.task_logs import TaskLogs
from headrace.endpoint.turns import Turns

logger = logging.getLogger(__name__)

ACK_DELAY_S = 0.1
IN_PROGRESS_S = 0.4
STARTED_MARK_S = 0.1
MOST_PART_BYTES = 1024 * 1024

_WANTED_WORK_S = 0.5
_MOST_TASKS_IN_HAND = 20_000
_MOST_BYTES_IN_HAND = 128 * 1024 * 1024
_MOST_CONTROLS = 10_000
_PART_HEAD = 4096
_RETRY_S = 1.0
_MOST_ACKS_HELD = 64
_NOT_NOW = b'-NAK {"delay": 1000000000}'
_BETWEEN_S = 0.25
_FOREIGN_WAIT_S = 30
_FOREIGN_TRIES = 120
_EXPIRED = (
    "the task was stored so long after it was signed that the key had expired (its client was suspended, or the bus "
    "did not answer): submit it again"
)


class Agent:
    """Serves one pool. `run` until cancelled, then `drain`.

    `engine_of(source, on_outcomes)` makes the engine; `allowed_functions` None allows all. `logs` is what the engine
    gives the output of calls to, if it gives it to anybody. `objects` makes the desk for large payloads, from
    what gives the code token; None refuses them.
    """

    def __init__(
        self,
        service: PoolService,
        connection: Connection,
        grant: PoolGrant,
        engine_of: Callable[[Source, OutcomesCallback], Engine],
        *,
        runtime: Runtime,
        allowed_functions: frozenset[UUID] | None = None,
        logs: TaskLogs | None = None,
        objects: Callable[[Callable[[], str]], ObjectDesk] | None = None,
        fair_share: FairShare | None = None,
    ) -> None:
        self._service = service
        self._connection = connection
        self._grant = grant
        self._runtime = runtime
        self._allowed = allowed_functions
        self._code = CodeCache(service)
        self._objects = None if objects is None else objects(lambda: self._grant.code_token)
        self._fetches: deque[tuple[Held, Call]] = deque()
        self._fetching = 0
        self._keeping = 0
        self._fetched: set[UUID] = set()
        self._turns = Turns(fair_share or FairShare())
        self._clock = ServerClock()
        self._clock.learn(grant.bus_time)
        self._patience = Patience(self._clock)
        self._marked: list[Call] = []
        self._marking = 0
        self._held: dict[UUID, Held] = {}
        self._logs = logs or TaskLogs(connection)
        self._logs.held = self._held
        self._acks: list[str] = []
        self._bytes_in_hand = 0
        self.bytes_taken = 0
        """How much has been taken since the start."""
        self._controls: OrderedDict[UUID, Control] = OrderedDict()
        # Up to this sequence bundles may have been in other hands, and cancellations may have been missed.
        self._unsure_up_to: float = float("inf")
        self._positions = 0
        self._mean_s: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes = PoolLanes(
            connection,
            self._on_delivery,
            wanted=self._wanted,
            is_full=lambda: self._bytes_in_hand >= _MOST_BYTES_IN_HAND,
            fair_share=fair_share or FairShare(),
        )
        self._draining = False
        self.engine = engine_of(self, self._on_outcomes)

    async def run(self) -> None:
        """Take and run bundles until cancelled. Raises when the engine or a side task fails for good."""
        await self.engine.start()
        await self._connection.subscribe(pool_controls(self._grant.endpoint, self._grant.pool), self._on_control)
        await self._connection.flush()
        self._connection.on_connected.append(self._on_connected)
        self._lanes.adopt(self._grant.lanes)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lanes.run(), name="pull bundles")
            group.create_task(self._keep_in_progress(), name="in progress")
            group.create_task(self._mark_started(), name="started marks")
            group.create_task(self._patience.run(self._on_patience_end), name="queue time-outs")
            group.create_task(self._learn_position(), name="position")

    async def drain(self, grace_s: float) -> None:
        """Give running tasks `grace_s` to end, store what is there, and hand the rest back."""
        self._draining = True
        deadline = time.monotonic() + grace_s + 2.0
        # What still runs must not be given to another pool meanwhile.
        self._spawn(self._keep_in_progress(), "in progress")
        await self.engine.stop(grace_s=grace_s)
        while time.monotonic() < deadline and (
            self._keeping or any(held.storing or held.unstored for held in self._held.values())
        ):
            await asyncio.wait(self._tasks, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
        await self._ack()
        await self._logs.drain(max(0.0, deadline - time.monotonic()))
        # A bundle that is handed back goes to another pool at once instead of after the time for acks.
        for held in self._held.values():
            with suppress(BusError):
                await self._connection.publish(held.ack_subject, b"-NAK")
        with suppress(BusError):
            await self._connection.flush(1.0)
        # One that ends may begin another; none outlives the agent.
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def adopt(self, grant: PoolGrant) -> None:
        """Go on with a renewed grant, before the connection moves to it: then nothing comes that it cannot check."""
        self._grant = grant
        self._clock.learn(grant.bus_time)
        self._lanes.adopt(grant.lanes)

    @property
    def status(self) -> dict[str, int]:
        """How busy this pool is."""
        load = self.engine.load()
        return {
            "workers": load.workers,
            "busy": load.busy,
            "queued": load.queued + len(self._turns) + len(self._fetches) + self._fetching,
            "bundles": len(self._held),
        }

    # Taking bundles

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._draining:
            return  # never acked: it comes again elsewhere
        try:
            address = Address.of_task_subject(delivery.subject)
            held = self._held.get(address.bundle)
            if held is not None:
                # The server forgot that we hold it (it was restarted, or our signals were late): it is still ours.
                held.ack_subject = delivery.ack_subject
                return
            bundle = self._opened(delivery, address)
        except WireVersionUnknown as error:
            self._leave_to_others(delivery, error)
            return
        except (SignatureInvalid, DecodeError) as error:
            logger.warning(
                "Dropped a message that is no bundle for this pool: %s",
                error,
                extra={"action": "bundle_refused", "subject": delivery.subject},
            )
            self._spawn(self._answer(delivery.ack_subject, b"+TERM"), "drop")
            return
        held = Held(
            address=address,
            ack_subject=delivery.ack_subject,
            bundle=bundle,
            sequence=delivery.sequence,
            stored_ns=delivery.stored_ns,
            taken_at=time.time(),
            open={task.index for task in bundle.tasks},
            size=len(delivery.data),
        )
        self._held[address.bundle] = held
        self._lanes.note(held)
        self._clock.learn(held.stored_at)
        self._bytes_in_hand += held.size
        self.bytes_taken += held.size
        if delivery.stored_ns > bundle_key_expiry(delivery.data) * 1_000_000_000:
            self._refuse_expired(held)
            return
        unsure = delivery.sequence <= self._unsure_up_to
        codes = self._known_codes(held)
        if unsure or delivery.retry or delivery.deliveries > 1 or codes is None:
            self._spawn(self._prepare(held, read=unsure or delivery.retry or delivery.deliveries > 1), "prepare", held)
        else:
            held.control = self._controls.get(address.bundle, held.control)
            self._let_wait(held, codes)

    def _refuse_expired(self, held: Held) -> None:
        """End the tasks of a bundle that is genuine, but was stored after the key that signed it had expired."""
        for index in list(held.open):
            self._end(held, index, SubmissionRefused(_EXPIRED))
        self._settle(held)

    def _leave_to_others(self, delivery: Delivery, error: WireVersionUnknown) -> None:
        """While releases change, a bundle of another one waits for a pool that reads it; but not for ever, because
        nobody has checked who sent it."""
        kept = delivery.deliveries < _FOREIGN_TRIES
        if delivery.deliveries == 1 or not kept:
            logger.error(
                "%s %s. Upgrade this endpoint: `pip install --upgrade headrace`, and start it again.",
                "Left in the queue:" if kept else "Dropped:",
                error,
                extra={"action": "bundle_of_another_release", "subject": delivery.subject, "kept": kept},
            )
        answer = b'-NAK {"delay": %d}' % (_FOREIGN_WAIT_S * 1_000_000_000) if kept else b"+TERM"
        self._spawn(self._answer(delivery.ack_subject, answer), "leave to others")

    def _opened(self, delivery: Delivery, address: Address) -> Bundle:
        grant = self._grant
        if address.endpoint != grant.endpoint or address.pool != grant.pool:
            raise DecodeError(f"a bundle for {address.endpoint}/{address.pool}", raw=delivery.data[:64])
        expiry = bundle_key_expiry(delivery.data)
        bundle = decode_bundle(
            delivery.data, subject=delivery.subject, key=bundle_keys(grant.pool_secrets, address.principal, expiry)
        )
        functions, options = len(bundle.functions), len(bundle.options)
        if any(task.function >= functions or task.options >= options for task in bundle.tasks):
            raise DecodeError("a task of it names a function or options that are not in it", raw=delivery.data[:64])
        return bundle

    def _known_codes(self, held: Held) -> list[FunctionCode] | None:
        """The code of the bundle's functions if all of it is here and may run; None when that needs a closer look."""
        codes = []
        for use in held.bundle.functions:
            code = self._code.known(use.id)
            if code is None or self._refusal(use, held) is not None:
                return None
            codes.append(code)
        return codes

    def _refusal(self, use: FunctionUse, held: Held) -> FunctionUnusable | None:
        try:
            check_function_grant(self._grant.pool_secrets, use.grant, use.id, held.address.principal, use.grant_expires)
        except SignatureInvalid as error:
            return FunctionUnusable(str(error))
        # By the time at which it was stored: a task may wait for days, and nobody's clock but the server's counts.
        if held.stored_ns > use.grant_expires * 1_000_000_000:
            return FunctionUnusable(
                f"the grant to run function {use.id} here had expired when the task was submitted; submit it again"
            )
        if self._allowed is not None and use.id not in self._allowed:
            return FunctionUnusable(
                f"function {use.id} is not in this endpoint's allowed_functions, which its administrator decides"
            )
        return None

    async def _prepare(self, held: Held, *, read: bool) -> None:
        if read:
            await self._read_past(held)
        else:
            held.control = self._controls.get(held.address.bundle, held.control)
        self._let_wait(held, [await self._code_for(use, held) for use in held.bundle.functions])

    async def _read_past(self, held: Held) -> None:
        """Results and cancellations that were stored before we took the bundle."""
        while True:
            try:
                parts = await read_parts(self._connection, held.address, held.bundle.result_keys)
                message = await self._connection.read_last("CONTROL", held.address.control_subject)
                break
            except BusError as error:
                logger.warning("Reading the past of a bundle: %s; trying again.", error)
                await asyncio.sleep(_RETRY_S)
        for part in parts:
            held.stored([result.index for result in part.part.results])
        if message is not None:
            held.control = self._control(message.data, held.address.control_subject) or held.control

    async def _code_for(self, use: FunctionUse, held: Held) -> FunctionCode | FunctionUnusable:
        refusal = self._refusal(use, held)
        if refusal is not None:
            return refusal
        try:
            return await self._code.get(lambda: self._grant, use, held.address.principal)
        except FunctionUnusable as error:
            return error

    def _let_wait(self, held: Held, codes: Iterable[FunctionCode | FunctionUnusable]) -> None:
        table = list(codes)
        address = held.address
        self._end_late(held, held.late(self._clock.now()))
        for end in held.ends():
            self._patience.add(end, address.bundle, self._held)
        for task in held.bundle.tasks:
            if task.index not in held.open or task.index in held.unstored:
                continue
            if held.control.cancels(task.index):
                self._end(held, task.index, TaskCancelled("the task was cancelled before it started"), "cancelled")
                continue
            code = table[task.function] if task.function < len(table) else FunctionUnusable("no such function")
            if isinstance(code, FunctionUnusable):
                self._end(held, task.index, code)
                continue
            self._turns.put(address.principal, address.group, self._call(held, task, code))
        self._settle(held)
        self.engine.wake()

    def _call(self, held: Held, task: Task, code: FunctionCode) -> Call:
        return Call(
            key=task_id(held.address.bundle, task.index),
            function=held.bundle.functions[task.function].id,
            encoding=task.encoding,
            arguments=task.arguments,
            options=held.bundle.options[task.options],
            code=code,
        )

    # Feeding the engine

    def next_call(self) -> Call | None:
        """What the engine is to run next; see `headrace.endpoint.engine.Source`."""
        if self._draining:
            return None
        if self._fetches:
            self._fetch_next()
        if self._marked:
            return self._marked.pop()
        while True:
            turn = self._turns.take()
            if turn is None:
                return None
            principal, group, call = turn
            if call.options.queue_timeout_s is not None and self._is_late(call):
                continue
            held = self._held.get(split_task_id(call.key)[0])
            if call.encoding == OBJECT and call.key not in self._fetched:
                # It waits aside, so that what is here goes on, and has another turn when it is here as well.
                self._over(call.key)
                if held is not None:
                    self._fetches.append((held, call))
                    self._fetch_next()
                continue
            if call.options.rerun_on_loss:
                return call
            load = self.engine.load()
            if self._marking >= max(1, load.workers - load.busy):
                self._turns.put(principal, group, call)
                return None
            if held is not None:
                self._marking += 1
                self._spawn(self._mark(held, call), "started mark", held)

    def _is_late(self, call: Call) -> bool:
        bundle, index = split_task_id(call.key)
        held, limit_s = self._held.get(bundle), call.options.queue_timeout_s
        if held is None or limit_s is None or held.stored_at + limit_s > self._clock.now():
            return False
        self._end_late(held, {index: limit_s})
        self._settle(held)
        return True

    def _fetch_next(self) -> None:
        """Fetch the arguments of as many calls as there are idle workers, and of one ahead."""
        load = self.engine.load()
        while self._fetches and self._fetching <= max(0, load.workers - load.busy):
            held, call = self._fetches.popleft()
            if self._held.get(held.address.bundle) is held:
                self._fetching += 1
                self._spawn(self._fetch(held, call), "fetch arguments", held)

    def _unfetched(self, keys: Collection[UUID]) -> list[Call]:
        """Take these calls from those whose arguments are to be fetched; the ones that were there."""
        found = [call for _, call in self._fetches if call.key in keys]
        if found:
            self._fetches = deque((held, call) for held, call in self._fetches if call.key not in keys)
        return found

    async def _fetch(self, held: Held, call: Call) -> None:
        """Bring large arguments here; only then may the call reach a worker."""
        index = split_task_id(call.key)[1]
        try:
            if self._objects is None:
                raise ObjectMissing("this pool takes no large arguments")
            await self._objects.fetch(call, held.address)
        except TaskError as error:
            self._end(held, index, error)
        finally:
            self._fetching -= 1
            self._fetch_next()
        if self._held.get(held.address.bundle) is not held or index not in held.unfinished():
            self._release(call.key)
        elif held.control.cancels(index):
            self._release(call.key)
            self._end(held, index, TaskCancelled("the task was cancelled before it started"), "cancelled")
        else:
            self._fetched.add(call.key)
            self._turns.put(held.address.principal, held.address.group, call)
        self._settle(held)
        self.engine.wake()

    def _release(self, key: UUID) -> None:
        """Let the large arguments of a call go."""
        self._fetched.discard(key)
        if self._objects is not None:
            self._objects.release(key)

    async def _keep_result(self, held: Held, result: TaskResult) -> None:
        """Bring a large value into the object store; only then is it a result."""
        self._keeping += 1
        try:
            if self._objects is not None:
                result = await self._objects.kept(result, held.address)
        finally:
            self._keeping -= 1
        if held.add(result):
            self._settle(held)

    async def _mark(self, held: Held, call: Call) -> None:
        """Store that a task has started which must not run twice; only then may it reach a worker."""
        index = split_task_id(call.key)[1]
        try:
            is_first = await self._store_mark(held.address.started_subject(index))
        finally:
            self._marking -= 1
        if self._held.get(held.address.bundle) is held:
            self._on_mark(held, index, call, is_first)
        self.engine.wake()

    def _on_mark(self, held: Held, index: int, call: Call, is_first: bool) -> None:
        if not is_first:
            lost = "the task had started when its pool was lost, and it must not run twice (rerun_on_loss=False)"
            self._end(held, index, TaskLost(lost))
        elif held.control.cancels(index):
            self._end(held, index, TaskCancelled("the task was cancelled before it started"), "cancelled")
        else:
            self._marked.append(call)
        self._settle(held)

    async def _store_mark(self, subject: str) -> bool:
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

    def _on_outcomes(self, outcomes: list[Outcome]) -> None:
        # On its way before the results, so that who sees a result finds the whole log.
        self._logs.flush()
        touched: dict[UUID, Held] = {}
        worked_s = 0.0
        for outcome in outcomes:
            bundle, index = split_task_id(outcome.key)
            self._over(outcome.key)
            held = self._held.get(bundle)
            worked_s += max(0.0, outcome.ended_at - outcome.started_at)
            if outcome.key in self._fetched:
                self._release(outcome.key)
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
                self._spawn(self._keep_result(held, result), "store a large result", held)
            elif held.add(result):
                touched[bundle] = held
        for held in touched.values():
            self._settle(held)
        if outcomes:
            mean_s = worked_s / len(outcomes)
            self._mean_s = mean_s if self._mean_s is None else 0.7 * self._mean_s + 0.3 * mean_s
            self._lanes.wake()

    def _over(self, key: UUID) -> None:
        """A call is not with the workers (any more): its principal may have been waiting for that."""
        if self._turns.ended(key):
            asyncio.get_running_loop().call_soon(self.engine.wake)

    def _wanted(self) -> int:
        """How many tasks to have in hand: enough to keep the workers busy for a while, and no more than that, so that
        other pools of this endpoint get theirs."""
        if self._draining:
            return 0
        workers = max(1, self.engine.load().workers)
        if self._mean_s is None:
            return 4 * workers + 16
        return max(2 * workers, min(_MOST_TASKS_IN_HAND, int(workers * _WANTED_WORK_S / max(self._mean_s, 1e-6))))

    # Storing results

    def _end(self, held: Held, index: int, error: TaskError, state: str = "failed") -> None:
        self._over(task_id(held.address.bundle, index))
        held.add(failed(index, error, taken_at=held.taken_at, state=state))

    def _end_late(self, held: Held, limits_s: Mapping[int, float]) -> None:
        for index, limit_s in limits_s.items():
            self._end(held, index, waited_too_long(limit_s), "expired")

    def _settle(self, held: Held) -> None:
        """Store what is to be stored, or ack what is complete."""
        self._lanes.note(held, is_held=self._held.get(held.address.bundle) is held)
        if held.storing:
            return
        if held.unstored:
            held.storing = True
            self._spawn(self._store(held), "store results", held)
        elif held.complete:
            self._let_go(held)

    async def _store(self, held: Held) -> None:
        try:
            while held.unstored:
                await self._store_part(held, _portion(held.unstored))
        finally:
            held.storing = False
        self._settle(held)

    async def _store_part(self, held: Held, results: list[TaskResult]) -> None:
        subject = held.address.result_subject(held.next_part)
        functions, places = held.functions_of(results)
        part = ResultPart(
            results=results,
            total=len(held.bundle.tasks),
            runtime=self._runtime,
            origin=held.bundle.origin,
            stored_at=held.stored_at,
            functions=functions,
            places=places,
        )
        message = encode_part(part, subject=subject, key=held.bundle.result_key)
        try:
            await self._connection.store(subject, message, timeout_s=None)
            held.stored([result.index for result in results])
        except AlreadyStored:
            # Somebody (perhaps we, when an answer was lost) was first: what is stored counts, the rest goes on.
            await self._merge(held)
        except PayloadTooLarge as error:
            self._replace_largest(held, results, error)
        except BusError as error:
            logger.warning("A result part could not be stored (%s); trying again.", error, extra={"subject": subject})
            await asyncio.sleep(_RETRY_S)

    async def _merge(self, held: Held) -> None:
        try:
            parts = await read_parts(self._connection, held.address, held.bundle.result_keys, first_part=held.next_part)
        except BusError:
            await asyncio.sleep(_RETRY_S)
            return
        for part in parts:
            held.stored([result.index for result in part.part.results])

    def _replace_largest(self, held: Held, results: list[TaskResult], error: PayloadTooLarge) -> None:
        largest = max(results, key=lambda result: len(result.value))
        held.unstored[largest.index] = failed(
            largest.index,
            ResultNotSerialisable(
                f"the result has {len(largest.value)} bytes, more than the {error.limit} bytes that fit in a message;"
                " return less, or write it to a file and return its path"
            ),
            taken_at=held.taken_at,
        )

    def _let_go(self, held: Held) -> None:
        if self._forget(held):
            # Not at once: the server would write the removal in front of the next bundle, which then waits for it.
            self._acks.append(held.ack_subject)
            if len(self._acks) == 1:
                asyncio.get_running_loop().call_later(ACK_DELAY_S, lambda: self._spawn(self._ack(), "ack"))
            elif len(self._acks) == _MOST_ACKS_HELD:
                self._spawn(self._ack(), "ack")

    async def _ack(self) -> None:
        """Let the server forget the bundles that are done. Lost, it means a look into the store, no more."""
        acks, self._acks = self._acks, []
        for subject in acks:
            with suppress(BusUnavailable):
                await self._connection.publish(subject, b"+ACK")

    async def _answer(self, ack_subject: str, answer: bytes) -> None:
        """Say what becomes of a bundle. Lost with the connection, the bundle comes again."""
        with suppress(BusUnavailable):
            await self._connection.publish(ack_subject, answer)

    def _hand_back(self, held: Held) -> None:
        """Let go of a bundle that cannot be finished here now. It comes again, to us or to another pool."""
        if self._forget(held):
            address = held.address
            keys = {task_id(address.bundle, index) for index in held.open}
            self._turns.remove(address.principal, address.group, keys)
            for key in keys:
                self._over(key)
            self._marked = [call for call in self._marked if call.key not in keys]
            self._spawn(self._answer(held.ack_subject, _NOT_NOW), "hand back")

    def _forget(self, held: Held) -> bool:
        if self._held.get(held.address.bundle) is not held:
            return False
        del self._held[held.address.bundle]
        if self._fetched:
            for task in held.bundle.tasks:
                self._release(task_id(held.address.bundle, task.index))
        self._bytes_in_hand -= held.size
        # There may be room again for which nothing else would wake them.
        self._lanes.note(held, is_held=False)
        self._lanes.wake()
        return True

    # Cancelling

    def _on_control(self, message: Message) -> None:
        if message.subject == lane_news(self._grant.endpoint, self._grant.pool):
            self._on_lane_news(message)
            return
        control = self._control(message.data, message.subject)
        if control is None:
            return
        address = Address.of_task_subject(message.subject)
        held = self._held.get(address.bundle)
        if held is not None:
            self._apply(held, control)
            return
        self._controls[address.bundle] = control
        if len(self._controls) > _MOST_CONTROLS:
            # Too many to remember: from here on they are read from the store.
            self._controls.clear()
            self._unsure_up_to = float("inf")
            self._spawn(self._learn_position(), "position")

    def _on_lane_news(self, message: Message) -> None:
        try:
            name = decode_news(message.data, subject=message.subject, pool_secret=self._grant.pool_secrets)
        except (SignatureInvalid, DecodeError) as error:
            # Signed with newer keys than our grant's, or not by the service: what it grants lists all lanes.
            logger.info("The news of a lane cannot be believed (%s); asking the service.", error)
            self._spawn(self._learn_position(), "lanes")
            return
        self._lanes.hear(name)

    def _control(self, data: bytes, subject: str) -> Control | None:
        try:
            return decode_control(data, subject=subject, pool_secret=self._grant.pool_secrets)
        except (SignatureInvalid, DecodeError) as error:
            logger.warning("Dropped a cancellation that is not the service's: %s", error)
            return None

    def _apply(self, held: Held, control: Control) -> None:
        held.control = held.control.merged(control)
        address = held.address
        keys = {task_id(address.bundle, i) for i in held.unfinished() if held.control.cancels(i)}
        if not keys:
            return
        waiting = [call for call in self._marked if call.key in keys]
        self._marked = [call for call in self._marked if call.key not in keys]
        waiting += self._unfetched(keys)
        for call in [*waiting, *self._turns.remove(address.principal, address.group, keys)]:
            keys.discard(call.key)
            self._end(
                held, split_task_id(call.key)[1], TaskCancelled("the task was cancelled before it started"), "cancelled"
            )
        forced = {key for key in keys if held.control.forces(split_task_id(key)[1])}
        if forced:
            self.engine.cancel(forced, force=True)
        if keys - forced:
            self.engine.cancel(keys - forced, force=False)
        self._settle(held)

    # Side tasks

    async def _keep_in_progress(self) -> None:
        while True:
            for held in list(self._held.values()):
                with suppress(BusUnavailable):
                    await self._connection.publish(held.ack_subject, b"+WPI")
            await asyncio.sleep(IN_PROGRESS_S)

    async def _mark_started(self) -> None:
        """Tell of tasks that run for a while, once each, so that their futures can say that they run."""
        seen: set[UUID] = set()
        told: set[UUID] = set()
        while True:
            await asyncio.sleep(STARTED_MARK_S)
            running = set(self.engine.running())
            for key in (running & seen) - told:
                bundle, index = split_task_id(key)
                held = self._held.get(bundle)
                if held is not None:
                    with suppress(BusUnavailable):
                        await self._connection.publish(held.address.started_subject(index))
            told = running & (told | seen)
            seen = running

    def _on_patience_end(self, bundle: UUID) -> None:
        """End the tasks of a bundle that have waited too long, wherever in this pool they wait."""
        held = self._held.get(bundle)
        if held is None:
            return
        limits_s = held.late(self._clock.now())
        keys = {task_id(bundle, index) for index in limits_s}
        waiting = {call.key for call in self._turns.remove(held.address.principal, held.address.group, keys)}
        waiting.update(call.key for call in self._unfetched(keys))
        waiting.update(self.engine.take_back(keys - waiting))
        indices = [split_task_id(key)[1] for key in waiting]
        self._end_late(held, {index: limits_s[index] for index in indices})
        self._settle(held)
        # Some may be between two places: their mark is being stored, or they are on the way to a worker.
        if keys - waiting - set(self.engine.running()):
            self._patience.add(self._clock.now() + _BETWEEN_S, bundle, self._held)

    def _on_connected(self) -> None:
        # Cancellations may have been missed, and bundles that we held may have been given to others.
        self._unsure_up_to = float("inf")
        self._spawn(self._learn_position(), "position")
        for held in list(self._held.values()):
            self._spawn(self._reread_control(held), "read cancellations")

    async def _reread_control(self, held: Held) -> None:
        with suppress(BusError):
            message = await self._connection.read_last("CONTROL", held.address.control_subject)
            control = None if message is None else self._control(message.data, held.address.control_subject)
            if control is not None:
                self._apply(held, control)

    async def _learn_position(self) -> None:
        """Ask where the stream of tasks ends now: what comes after that was in nobody's hands before."""
        self._positions += 1
        mine = self._positions
        # An answer to an earlier question would be too low: the connection was lost once more since it was asked.
        while mine == self._positions:
            try:
                grant = await asyncio.to_thread(self._service.grant_pool)
                self._lanes.adopt(grant.lanes)
                if mine == self._positions:
                    self._unsure_up_to = grant.tasks_sequence
                return
            except Exception as error:
                logger.info("The service does not answer (%s); every bundle's past is read until it does.", error)
                await asyncio.sleep(_RETRY_S)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, held: Held | None = None) -> None:
        """Run a side task; `held` is the bundle that cannot be finished here when it dies."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done if held is None else functools.partial(self._done, held=held))

    def _done(self, task: asyncio.Task[None], held: Held | None = None) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if held is None:
            logger.error("%s failed.", task.get_name(), exc_info=error)
            return
        # Kept in hand, it would be called in progress for ever, and no pool would get it again.
        logger.error("%s failed: the bundle comes again.", task.get_name(), exc_info=error)
        self._hand_back(held)


def _portion(unstored: dict[int, TaskResult]) -> list[TaskResult]:
    """As many results as fit in one part; at least one."""
    results: list[TaskResult] = []
    size = _PART_HEAD
    for result in unstored.values():
        size += len(result.value) + 96
        if results and size > MOST_PART_BYTES:
            break
        results.append(result)
    return results
