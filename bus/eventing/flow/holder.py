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
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace.bus import names
from headrace.bus.errors import (
    BusUnavailable,
    EventTooOld,
    QueueFull,
    StreamFull,
    StreamMissing,
)
from headrace.bus.eventing.announcements import Announcer
from headrace.bus.eventing.burials import Burials
from headrace.bus.eventing.deliveries import FailedAttempt
from headrace.bus.eventing.flow import queue
from headrace.bus.eventing.flow.beginnings import Beginnings
from headrace.bus.eventing.flow.calls import Call, Calls
from headrace.bus.eventing.flow.endings import Endings, not_made, reported
from headrace.bus.eventing.flow.inflow import Inflow
from headrace.bus.eventing.flow.limits import Limits
from headrace.bus.eventing.flow.plans import Member, Plan
from headrace.bus.eventing.flow.policy import Flow
from headrace.bus.eventing.flow.scheduler import Begin, Scheduler
from headrace.bus.eventing.flow.verdicts import (
    REPORTED,
    Rules,
    Verdict,
    failed,
    partly_failed,
    refused,
    succeeded,
    too_old,
)
from headrace.bus.eventing.outcomes import failed_attempt
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.sending import PERMANENT, Sender
from headrace.bus.eventing.starts import CatchUpRecord
from headrace.bus.eventing.subscriptions import CompiledSubscription
from headrace.bus.ids import task_id
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.store.records import Records
from headrace.bus.tasks.bundles import TaskResult

logger = logging.getLogger(__name__)

_LOOK_AT_QUEUE_S: Final = 10.0
_READ_TOGETHER: Final = 64


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
        self._calls = Calls(tools.connection, tools.keys, self._record.owner, self._group, self._on_end)
        self._beginnings = Beginnings(
            tools.connection, self._record, self._scheduler, self._inflow, self._calls, tools.runs
        )
        self._endings = Endings(tools.connection, self._record, tools.burials, tools.announcer, tools.runs)
        self._news = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve the queue. Raises `BusUnavailable` and whatever else ends it."""
        if self._record.pauses.now is not None:
            await asyncio.Event().wait()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._limits.want_nothing, self)
            for subject, heard in (
                (names.stored_results_anywhere(self._record.owner, self._group), self._calls.heard),
                (names.queued_news(self._id), self._on_news),
            ):
                listening = await self._connection.subscribe(subject, heard)
                stack.push_async_callback(listening.cancel)
            await self._connection.flush()
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                try:
                    await self._inflow.gather_early()
                    await self._recover()
                    tasks.create_task(self._calls.look_after(self._submit), name=f"calls of {self._id}")
                    await self._serve(tasks)
                finally:
                    # What is heard from here on is found in the store by whoever goes on.
                    self._tasks = None

    async def _recover(self) -> None:
        """Take over what is planned, and what runs: that counts against the limits from now on."""
        await self._beginnings.take_over()
        running = await queue.running(self._connection, self._id, self._record.owner)
        for plan in await queue.read_plans(self._connection, self._id):
            self._inflow.leave_out(plan)
            if plan.plan_id.hex in running:
                await self._adopt(plan)
            else:
                self._scheduler.restore(plan)
        bundles = sorted(running - self._calls.bundles())
        for start in range(0, len(bundles), _READ_TOGETHER):
            await asyncio.gather(*map(self._adopt_bundle, bundles[start : start + _READ_TOGETHER]))

    async def _adopt_bundle(self, bundle: str) -> None:
        """What runs without a plan: a delivery alone, in its first attempt."""
        plan = await self._inflow.queued_as(bundle)
        if plan is not None:
            self._inflow.leave_out(plan)
            await self._adopt(plan)

    async def _adopt(self, plan: Plan) -> None:
        found = await asyncio.gather(*(queue.read_place(self._connection, each.place) for each in plan.members))
        queued = [waiting for waiting in found if waiting is not None]
        if len(queued) < len(found):
            self._scheduler.restore(plan)  # It has ended, and is not tidied up.
            return
        self._calls.add(Call(self._scheduler.adopt(plan), plan, queued, time.monotonic()))

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
        call = await self._beginnings.call(begin)
        if call is None:
            self._scheduler.ended(begin)
            self._news.set()
            return
        self._calls.add(call)
        # Of what was planned, begun or queued before, the result may be there already.
        if call.known and await self._calls.look_up([call]):
            return
        if self._flow.batch is None and len(call.plan.members) > 1:
            # Its owner wants no batches any more.
            await self._settle(call, Verdict(again=[call.plan.of([each]) for each in call.plan.members]))
            return
        await self._submit(call)

    async def _submit(self, call: Call) -> None:
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
                failure = not_made(call.plan, error.code, str(error))
                await self._settle(call, too_old(call.plan, failure, old or call.plan.members, str(error)))
                return
            except Exception as error:
                code, problem = "InternalError", f"an internal error: {error}"
                if isinstance(error, PERMANENT):
                    code, problem = error.code, str(error)
                else:
                    logger.exception("An unexpected error ended a delivery.", extra={"action": "delivery_broken"})
                await self._settle(call, refused(call.plan, not_made(call.plan, code, problem), code, self._rules))
                return

    def _is_too_old(self, member: Member) -> bool:
        return self._record.retry.is_too_old(member.delivery.published_at, time.time())

    async def _store(self, call: Call) -> None:
        render, batch = self._subscription.input, self._flow.batch
        await self._tools.sender.submit(
            self._record,
            call.plan.endpoint,
            lambda: render.render(call.shown[0]) if batch is None else render.render_batch(call.shown),
            group=self._group,
            bundle=call.plan.plan_id,
            origin=call.plan.origin,
            json_result=batch is not None and batch.partial_failures,
        )

    # --- ending -----------------------------------------------------------------------------------------------------

    def _on_news(self, _message: Message) -> None:
        self._inflow.look_again(True)
        self._news.set()

    def _on_end(self, call: Call, result: TaskResult) -> None:
        if self._tasks is not None:
            self._tasks.create_task(self._end(call, result), name=f"end of {call.plan.plan_id}")

    async def _end(self, call: Call, result: TaskResult) -> None:
        plan, batch = call.plan, self._flow.batch
        call.result = result
        self._tools.count("succeeded" if result.state == "succeeded" else "failed")
        if result.state != "succeeded":
            failure, code, _ = failed_attempt(result, plan.attempt, task_id(plan.plan_id, 0))
            await self._fail(call, failure, "Cancelled" if result.state == "cancelled" else code)
            return
        names_ = set() if batch is None or not batch.partial_failures else reported(plan, result)
        if names_ is None:
            problem = f"the function returned what is no list of {REPORTED}s of this batch"
            await self._fail(call, not_made(plan, "BatchReportInvalid", problem, result), "BatchReportInvalid")
        elif names_:
            failure = not_made(plan, REPORTED, "the function reported that this event failed", result)
            await self._settle(call, partly_failed(plan, names_, failure, self._rules, at=time.time()))
        else:
            await self._settle(call, succeeded(plan))

    async def _fail(self, call: Call, failure: FailedAttempt, code: str) -> None:
        await self._settle(call, failed(call.plan, failure, code, self._rules, at=time.time()))

    async def _settle(self, call: Call, verdict: Verdict) -> None:
        """Store what follows, then let go."""
        self._calls.remove(call)
        final = verdict.dead is None and not verdict.again
        if final:
            # Room for the next one at once: should this not be removed, it is found to be done.
            self._release(call)
        await self._endings.settle(call, verdict)
        if not final:
            self._release(call, verdict.again)

    def _release(self, call: Call, following: list[Plan] | None = None) -> None:
        self._scheduler.ended(call.begin, following or ())
        self._news.set()
