"""What an attempt leads to, stored: dead letters, announcements, further plans; and what its function reports."""

from __future__ import annotations

import asyncio

import msgspec

from headrace.bus.eventing.announcements import Announcer
from headrace.bus.eventing.burials import Burials
from headrace.bus.eventing.deliveries import FailedAttempt
from headrace.bus.eventing.flow import queue
from headrace.bus.eventing.flow.calls import Call
from headrace.bus.eventing.flow.plans import Member, Plan
from headrace.bus.eventing.flow.verdicts import Step, Verdict, reported_failures, steps
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.ids import task_id
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import TaskResult
from headrace.bus.tasks.plain_results import plain_result


class Endings:
    """Those of the calls of one subscription."""

    def __init__(
        self,
        connection: Connection,
        record: SubscriptionRecord,
        burials: Burials,
        announcer: Announcer,
        runs: TickRuns,
    ) -> None:
        self._connection = connection
        self._record = record
        self._burials = burials
        self._announcer = announcer
        self._runs = runs

    async def settle(self, call: Call, verdict: Verdict) -> None:
        """Store all that follows. Doing it again has one effect. Raises `StreamFull` and `BusUnavailable`."""
        await self._announce(call, verdict)
        for step in steps(call.plan, verdict, stored=call.stored):
            await self._do(step, call, verdict)

    async def _do(self, step: Step, call: Call, verdict: Verdict) -> None:
        if step.bury is not None:
            member, delivery = step.bury
            # What the next tick of its schedule has replaced was ended on purpose.
            if await self._runs.goes_on(delivery):
                event = call.events[call.plan.members.index(member)]
                await self._burials.bury(self._record, delivery, event, verdict.reason, verdict.code)
        if step.remove:
            for member in step.remove:
                await self._runs.end(member.delivery)
            # Of a first attempt alone the result says so; whoever looks for that finds none of what began in a batch.
            if call.stored or (self._record.flow is not None and self._record.flow.batch is not None):
                await asyncio.gather(*(self._note_done(member) for member in step.remove))
            await queue.remove(self._connection, [member.place for member in step.remove])
        if step.keep is not None:
            await queue.keep_plan(self._connection, self._record.subscription_id, step.keep)
        if step.drop is not None:
            await queue.drop_plan(self._connection, self._record.subscription_id, step.drop)

    async def _note_done(self, member: Member) -> None:
        place = member.delivery.place(self._record.endpoint_id)
        await queue.note_done(self._connection, member.delivery, place)

    async def _announce(self, call: Call, verdict: Verdict) -> None:
        if self._record.announce.success is None or call.result is None:
            return
        done = {member.place for member in verdict.done}
        for member, event in zip(call.plan.members, call.events, strict=True):
            if member.place in done:
                delivery = msgspec.structs.replace(member.delivery, attempt=call.plan.attempt)
                await self._announcer.success(
                    self._record,
                    delivery,
                    event,
                    call.result,
                    place=call.plan.endpoint,
                    task_id=task_id(call.plan.plan_id, 0),
                    stored_at=delivery.published_at,
                )


def reported(plan: Plan, result: TaskResult) -> set[str] | None:
    """The ids of the events of a batch that its function says have failed; None when what it says makes no sense."""
    plain = plain_result(result)
    return None if plain.python_object or plain.reference else reported_failures(plan, plain.value)


def not_made(plan: Plan, error: str, message: str, result: TaskResult | None = None) -> FailedAttempt:
    """The attempt of a plan that failed without an exception of its function."""
    return FailedAttempt(
        attempt=plan.attempt,
        task_id=task_id(plan.plan_id, 0),
        state="failed",
        error=error,
        message=message,
        started_at=0.0 if result is None else result.started_at,
        ended_at=0.0 if result is None else result.ended_at,
    )
