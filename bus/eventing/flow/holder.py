"""Who holds a subscription's lease: reads its queue, begins what may begin, and brings it to its end.

    queue      read in order, as far as is needed, never whole: what waits behind a limit lies in the store
    begin      plan stored (but for a first attempt of a single delivery), bundle stored
    result     told by the bus, or read: what is under way is looked up every two seconds, whatever was missed
    end        dead letters stored, queued deliveries removed, following plans stored, the plan removed: in this order

It keeps nothing that does not follow from what is stored. So it ends at the first error, and begins anew from there;
and whoever takes over after a crash does the same. Repeating a step stores the same things under the same names.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from headrace.bus import names
from headrace.bus.errors import (
    BusUnavailable,
    DecodeError,
    EventTooOld,
    QueueFull,
    SignatureInvalid,
    StreamFull,
    StreamMissing,
)
from headrace.bus.eventing.announcements import Announcer
from headrace.bus.eventing.burials import Burials
from headrace.bus.eventing.deliveries import FailedAttempt, Waiting
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.flow import queue
from headrace.bus.eventing.flow.inflow import Inflow
from headrace.bus.eventing.flow.limits import Limits
from headrace.bus.eventing.flow.plans import Member, Plan, single, together
from headrace.bus.eventing.flow.policy import Flow
from headrace.bus.eventing.flow.scheduler import Begin, Scheduler
from headrace.bus.eventing.flow.verdicts import (
    REPORTED,
    Rules,
    Verdict,
    failed,
    partly_failed,
    refused,
    reported_failures,
    succeeded,
    too_old,
)
from headrace.bus.eventing.outcomes import failed_attempt, first_result
from headrace.bus.eventing.replays.models import marked
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.sending import PERMANENT, Sender
from headrace.bus.eventing.starts import CatchUpRecord
from headrace.bus.eventing.subscriptions import CompiledSubscription
from headrace.bus.ids import task_id
from headrace.bus.keys import KeyRing
from headrace.bus.names import ResultAddress
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.store.records import Records
from headrace.bus.tasks.bundles import TaskResult, decode_part
from headrace.bus.tasks.plain_results import plain_result

logger = logging.getLogger(__name__)

_FIRST_LOOK_S: Final = 0.2
_LOOK_S: Final = 2.0
"""So often results are read of what is under way longer than this."""
_AGAIN_S: Final = 60.0
"""What gives no result for so long is stored once more, in case it was purged: what is queued is refused."""
_LOOK_AT_QUEUE_S: Final = 10.0
_ASKED_TOGETHER: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What holders work with."""

    connection: Connection
    keys: KeyRing
    sender: Sender
    burials: Burials
    announcer: Announcer
    runs: TickRuns
    catch_ups: Records[CatchUpRecord]
    count: Callable[[str], None]
    full_wait_s: float


@dataclass(slots=True)
class _Call:
    begin: Begin
    plan: Plan
    queued: list[Waiting]
    begun_at: float
    result: TaskResult | None = None

    @property
    def events(self) -> list[CloudEvent]:
        return [CloudEvent.of_stored(each.event) for each in self.queued]

    @property
    def shown(self) -> list[CloudEvent]:
        """The events as the function sees them: those of a replay marked."""
        pairs = zip(self.events, self.queued, strict=True)
        return [marked(event, each.delivery.replay) for event, each in pairs]


class Holder:
    """Serves the queue of one subscription. `run` until cancelled, or until the first error."""

    def __init__(self, tools: Tools, subscription: CompiledSubscription, limits: Limits) -> None:
        self._tools = tools
        self._connection = tools.connection
        self._subscription = subscription
        self._record = subscription.record
        self._id = subscription.record.subscription_id
        self._group = queue.group_of(self._id)
        self._flow = subscription.record.flow or Flow()
        self._rules = Rules(
            retry=self._record.retry,
            after=subscription.places.after,
            bisect=self._flow.batch is not None and self._flow.batch.bisect,
        )
        self._limits = limits
        self._scheduler = Scheduler(self._flow, limits, most_bytes=tools.connection.max_payload // 4)
        self._inflow = Inflow(tools.connection, subscription, self._scheduler, tools.catch_ups)
        self._calls: dict[str, _Call] = {}
        self._news = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve the queue. Raises `BusUnavailable` and whatever else ends it."""
        if self._record.pauses.now is not None:
            await asyncio.Event().wait()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._limits.want_nothing, self)
            for subject, heard in (
                (names.stored_results_anywhere(self._record.owner, self._group), self._on_result),
                (names.queued_news(self._id), self._on_news),
            ):
                listening = await self._connection.subscribe(subject, heard)
                stack.push_async_callback(listening.cancel)
            await self._connection.flush()
            async with asyncio.TaskGroup() as self._tasks:
                for plan in await queue.read_plans(self._connection, self._id):
                    self._inflow.leave_out(plan)
                    self._scheduler.restore(plan)
                await self._inflow.gather_early()
                self._tasks.create_task(self._look_after_calls(), name=f"calls of {self._id}")
                await self._serve(self._tasks)

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            self._news.clear()
            await self._inflow.fill()
            while begin := self._scheduler.next(time.time(), time.monotonic(), who=self):
                tasks.create_task(self._begin(begin), name=f"delivery {begin.number} of {self._id}")
            if self._scheduler.wants:
                self._limits.want(self, self._flow.priority, self._news.set)
            else:
                self._limits.want_nothing(self)
            await self._rest()

    async def _rest(self) -> None:
        """Until something has changed, or time alone changes something."""
        waits = [_LOOK_AT_QUEUE_S]
        until = self._scheduler.until(time.time())
        if until is not None:
            waits.append(until - time.time())
        if self._scheduler.wants:
            waits.append(self._limits.wait_s(time.monotonic()) or _LOOK_AT_QUEUE_S)
        if self._scheduler.held_back:
            waits.append(self._inflow.next_look_s)
        try:
            async with asyncio.timeout(max(0.0, min(waits))):
                await self._news.wait()
        except TimeoutError:
            self._inflow.look_again(min(waits) == _LOOK_AT_QUEUE_S)

    # --- beginning --------------------------------------------------------------------------------------------------

    async def _begin(self, begin: Begin) -> None:
        call = await (self._planned(begin, begin.plan) if begin.plan else self._fresh(begin))
        if call is None:
            self._scheduler.ended(begin)
            self._news.set()
            return
        self._calls[call.plan.plan_id.hex] = call
        # Of what was planned before, the result may be there already.
        if begin.plan is None or not await self._look_up([call]):
            await self._submit(call)

    async def _fresh(self, begin: Begin) -> _Call | None:
        """Entries that begin: what is still queued of them, as far as it goes to one endpoint."""
        queued: list[tuple[int, Waiting]] = []
        place = None
        for entry in begin.entries:
            waiting = await self._inflow.message(entry)
            if waiting is None:
                continue
            if not await self._tools.runs.goes_on(waiting.delivery):
                await queue.remove(self._connection, [entry.place])
                continue
            own = waiting.delivery.place(self._record.endpoint_id)
            place = place or own
            if own == place:
                queued.append((entry.place, waiting))
            else:
                self._scheduler.add(dataclasses.replace(entry, message=None))
        if place is None:
            return None
        if len(queued) == 1:
            plan = single(queued[0][0], queued[0][1].delivery, place, begin.key)
        else:
            plan = together([(number, waiting.delivery) for number, waiting in queued], place, begin.key)
            # Stored before it begins: whoever takes over must make the same batch of them.
            await queue.keep_plan(self._connection, self._id, plan)
        return _Call(begin, plan, [waiting for _, waiting in queued], time.monotonic())

    async def _planned(self, begin: Begin, plan: Plan) -> _Call | None:
        """A plan that begins. Its deliveries may be gone: dropped, or it had ended and was not removed."""
        found = [await queue.read_place(self._connection, member.place) for member in plan.members]
        queued = [waiting for waiting in found if waiting is not None]
        if len(queued) < len(found):
            left = [member for member, waiting in zip(plan.members, found, strict=True) if waiting is not None]
            rest = msgspec.structs.replace(plan, members=left)
            if left:
                await queue.keep_plan(self._connection, self._id, rest)
            await queue.drop_plan(self._connection, self._id, plan)
            plan = rest
        return _Call(begin, plan, queued, time.monotonic()) if queued else None

    async def _submit(self, call: _Call) -> None:
        """Store the call's bundle. Where there is no room it waits, and so do those behind it."""
        while True:
            try:
                await self._store(call)
                self._tools.count("sent")
                return
            except (BusUnavailable, StreamMissing):
                raise
            except (StreamFull, QueueFull):
                self._tools.count("postponed")
                await asyncio.sleep(self._tools.full_wait_s)
            except EventTooOld as error:
                old = [each for each in call.plan.members if self._is_too_old(each)]
                failure = _refused(call.plan, error.code, str(error))
                await self._settle(call, too_old(call.plan, failure, old or call.plan.members, str(error)))
                return
            except Exception as error:
                code, problem = "InternalError", f"an internal error: {error}"
                if isinstance(error, PERMANENT):
                    code, problem = error.code, str(error)
                else:
                    logger.exception("An unexpected error ended a delivery.", extra={"action": "delivery_broken"})
                await self._settle(call, refused(call.plan, _refused(call.plan, code, problem), code, self._rules))
                return

    def _is_too_old(self, member: Member) -> bool:
        return self._record.retry.is_too_old(member.delivery.published_at, time.time())

    async def _store(self, call: _Call) -> None:
        render, batch = self._subscription.input, self._flow.batch
        await self._tools.sender.submit(
            self._record,
            call.plan.endpoint,
            lambda: render.render(call.shown[0]) if batch is None else render.render_batch(call.shown),
            group=self._group,
            bundle=call.plan.plan_id,
            # Of a batch the oldest event: it is the first that waits too long.
            origin=min(call.plan.deliveries(), key=lambda each: each.published_at),
            json_result=batch is not None and batch.partial_failures,
        )

    # --- ending -----------------------------------------------------------------------------------------------------

    def _on_news(self, _message: Message) -> None:
        self._inflow.look_again(True)
        self._news.set()

    def _on_result(self, message: Message) -> None:
        subject = message.subject.removeprefix("stored.")
        if subject.split(".")[4] in self._calls:
            self._take(subject, message.data)

    def _take(self, subject: str, data: bytes) -> bool:
        """Take a part of a result; says whether it has ended its call."""
        try:
            where = ResultAddress.of_subject(subject)
            call = self._calls.get(where.bundle.hex)
            if call is None or (where.endpoint, where.principal) != (call.plan.endpoint, self._record.owner):
                return False
            key = self._tools.keys.result_keys(where.endpoint, where.principal)
            result = first_result(decode_part(data, subject=subject, key=key))
        except (SignatureInvalid, DecodeError) as error:
            logger.warning("A result of a delivery is not believed: %s", error, extra={"action": "result_refused"})
            return False
        if result is None or self._tasks is None or self._calls.pop(where.bundle.hex, None) is None:
            return False
        self._tasks.create_task(self._end(call, result), name=f"end of {where.bundle}")
        return True

    async def _end(self, call: _Call, result: TaskResult) -> None:
        plan, batch = call.plan, self._flow.batch
        call.result = result
        self._tools.count("succeeded" if result.state == "succeeded" else "failed")
        if result.state != "succeeded":
            failure, code = failed_attempt(result, plan.attempt, task_id(plan.plan_id, 0))
            await self._fail(call, failure, "Cancelled" if result.state == "cancelled" else code)
            return
        names_ = set() if batch is None or not batch.partial_failures else _reported(plan, result)
        if names_ is None:
            problem = f"the function returned what is no list of {REPORTED}s of this batch"
            await self._fail(call, _refused(plan, "BatchReportInvalid", problem, result), "BatchReportInvalid")
        elif names_:
            failure = _refused(plan, REPORTED, "the function reported that this event failed", result)
            await self._settle(call, partly_failed(plan, names_, failure, self._rules, at=time.time()))
        else:
            await self._settle(call, succeeded(plan))

    async def _fail(self, call: _Call, failure: FailedAttempt, code: str) -> None:
        await self._settle(call, failed(call.plan, failure, code, self._rules, at=time.time()))

    async def _settle(self, call: _Call, verdict: Verdict) -> None:
        """Store what follows, then let go. A crash in between leaves what leads to the same verdict."""
        self._calls.pop(call.plan.plan_id.hex, None)
        done = [member.place for member in verdict.done]
        final = verdict.dead is None and not verdict.again
        if final:
            # Room for the next one at once: should this not be removed, it is found to be done.
            self._release(call)
        await self._announce(call, verdict)
        if verdict.dead is not None:
            events = dict(zip((member.place for member in call.plan.members), call.events, strict=True))
            for member, delivery in zip(verdict.dead.members, verdict.dead.deliveries(), strict=True):
                event = events[member.place]
                await self._tools.burials.bury(self._record, delivery, event, verdict.reason, verdict.code)
            done += [member.place for member in verdict.dead.members]
        for member in verdict.done:
            await self._tools.runs.end(member.delivery)
        await queue.remove(self._connection, done)
        for plan in verdict.again:
            await queue.keep_plan(self._connection, self._id, plan)
        if call.begin.plan is not None or len(call.plan.members) > 1:
            await queue.drop_plan(self._connection, self._id, call.plan)
        if not final:
            self._release(call, verdict.again)

    async def _announce(self, call: _Call, verdict: Verdict) -> None:
        if self._record.announce.success is None or call.result is None:
            return
        done = {member.place for member in verdict.done}
        for member, event in zip(call.plan.members, call.events, strict=True):
            if member.place in done:
                delivery = msgspec.structs.replace(member.delivery, attempt=call.plan.attempt)
                await self._tools.announcer.success(
                    self._record,
                    delivery,
                    event,
                    call.result,
                    place=call.plan.endpoint,
                    task_id=task_id(call.plan.plan_id, 0),
                    stored_at=delivery.published_at,
                )

    def _release(self, call: _Call, following: list[Plan] | None = None) -> None:
        self._scheduler.ended(call.begin, following or ())
        self._news.set()

    # --- looking after what is under way ----------------------------------------------------------------------------

    async def _look_after_calls(self) -> None:
        pause_s = _FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            now = time.monotonic()
            old = [call for call in self._calls.values() if now - call.begun_at >= pause_s]
            for start in range(0, len(old), _ASKED_TOGETHER):
                await self._look_up(old[start : start + _ASKED_TOGETHER])
            for call in old:
                if call.plan.plan_id.hex in self._calls and now - call.begun_at > _AGAIN_S:
                    call.begun_at = now
                    await self._submit(call)
            pause_s = min(2 * pause_s, _LOOK_S)

    async def _look_up(self, calls: list[_Call]) -> bool:
        """Read the results of these calls; says whether there were any."""
        subjects = [
            names.bundle_results(call.plan.endpoint, self._record.owner, self._group, call.plan.plan_id)
            for call in calls
        ]
        parts, _ = await self._connection.read_many("RESULTS", {"multi_last": subjects, "batch": 5 * len(calls)})
        ended = [self._take(part.subject, part.data) for part in parts]
        return any(ended)


def _reported(plan: Plan, result: TaskResult) -> set[str] | None:
    plain = plain_result(result)
    return None if plain.python_object or plain.reference else reported_failures(plan, plain.value)


def _refused(plan: Plan, error: str, message: str, result: TaskResult | None = None) -> FailedAttempt:
    return FailedAttempt(
        attempt=plan.attempt,
        task_id=task_id(plan.plan_id, 0),
        state="failed",
        error=error,
        message=message,
        started_at=0.0 if result is None else result.started_at,
        ended_at=0.0 if result is None else result.ended_at,
    )
