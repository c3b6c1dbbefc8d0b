"""Flow control as a state machine: events come, functions run, fail and succeed, holders die at any place.

The scheduler, the plans and the verdicts are the real ones; the store, the endpoint and the clock are a few lists. What
the holder does between them is done here step by step, so that a crash may come between any two.
"""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.bus.eventing.deliveries import Delivery, FailedAttempt
from headrace.bus.eventing.flow.limits import Limits
from headrace.bus.eventing.flow.plans import Plan, single, together
from headrace.bus.eventing.flow.policy import Batch, Flow
from headrace.bus.eventing.flow.scheduler import Begin, Entry, Scheduler
from headrace.bus.eventing.flow.verdicts import (
    REPORTED,
    Rules,
    Verdict,
    failed,
    partly_failed,
    reported_failures,
    steps,
    succeeded,
)
from headrace.bus.eventing.retries import RetryPolicy
from headrace.bus.ids import task_id

ENDPOINT = UUID(int=7)
SUBSCRIPTION = UUID(int=9)
RETRY = RetryPolicy(max_attempts=2, first_delay_s=5, jitter=0)


def failure(plan: Plan, error: str = "ValueError") -> FailedAttempt:
    return FailedAttempt(plan.attempt, task_id(plan.plan_id, 0), "failed", error, "no")


class Machine(RuleBasedStateMachine):
    @initialize(
        concurrency=strategies.sampled_from([1, 2, 5]),
        ordered=strategies.booleans(),
        size=strategies.sampled_from([None, 1, 3]),
        bisect=strategies.booleans(),
        reports=strategies.booleans(),
    )
    def begin(self, concurrency: int, ordered: bool, size: int | None, bisect: bool, reports: bool) -> None:
        batch = None if size is None else Batch(size=size, bisect=bisect, partial_failures=reports, window_s=1.0)
        self.flow = Flow(concurrency=concurrency, order_by="subject" if ordered else None, batch=batch)
        self.retry_rules = Rules(retry=RETRY, bisect=batch is not None and bisect)
        self.now = 1000.0
        # The bus: events by sequence, and which of them are matched.
        self.events: list[tuple[str | None, bool]] = []
        self.unmatched: list[int] = []
        # DELIVERIES: queued deliveries by place, and plans by name; dead letters.
        self.places = 0
        self.queued: dict[int, tuple[Delivery, str | None, float]] = {}
        self.plans: dict[str, Plan] = {}
        self.dead: set[int] = set()
        # TASKS and RESULTS: what is under way at the endpoint, and what has ended there.
        self.tasks: dict[UUID, Plan] = {}
        self.results: dict[UUID, set[str] | str | None] = {}
        self.succeeded: dict[int, int] = defaultdict(int)
        self.start_holder()

    # --- the world

    @rule(key=strategies.sampled_from(["a", "b", None]), poison=strategies.sampled_from([False, False, True]))
    def publish(self, key: str | None, poison: bool) -> None:
        self.events.append((key if self.flow.order_by else None, poison))
        self.unmatched.append(len(self.events))

    @precondition(lambda self: self.unmatched)
    @rule(data=strategies.data())
    def match(self, data: strategies.DataObject) -> None:
        sequence = data.draw(strategies.sampled_from(self.unmatched[:3]))
        self.queue(sequence)

    def queue(self, sequence: int) -> None:
        self.places += 1
        delivery = Delivery(SUBSCRIPTION, "default", sequence, "/s", str(sequence))
        self.queued[self.places] = (delivery, self.events[sequence - 1][0], self.now)
        self.unmatched.remove(sequence)

    @precondition(lambda self: self.tasks)
    @rule(data=strategies.data())
    def run(self, data: strategies.DataObject) -> None:
        """A function runs at the endpoint to its end."""
        self.run_bundle(data.draw(strategies.sampled_from(sorted(self.tasks))))

    def run_bundle(self, bundle: UUID) -> None:
        plan = self.tasks.pop(bundle)
        bad = {m.delivery.event_id for m in plan.members if self.events[m.delivery.sequence - 1][1]}
        reports = self.flow.batch is not None and self.flow.batch.partial_failures
        for member in plan.members:
            if not bad or (reports and member.delivery.event_id not in bad):
                self.succeeded[member.delivery.sequence] += 1
        self.results[bundle] = (bad if reports else "ValueError") if bad else None

    @rule(seconds=strategies.sampled_from([0.5, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    # --- the holder

    def start_holder(self) -> None:
        self.limits = Limits(self.flow.concurrency, None, now=self.now)
        self.scheduler = Scheduler(self.flow, self.limits)
        self.calls: dict[UUID, tuple[Begin, Plan]] = {}
        self.read_up_to = 0
        self.taken_over_at = self.places
        self.planned: set[int] = set()
        for plan in self.plans.values():
            self.planned |= {member.place for member in plan.members}
            if plan.plan_id in self.tasks and all(member.place in self.queued for member in plan.members):
                self.calls[plan.plan_id] = (self.scheduler.adopt(plan), plan)
            else:
                self.scheduler.restore(plan)
        for place, (delivery, key, _) in self.queued.items():
            plan = single(place, delivery, ENDPOINT, key)
            if place not in self.planned and plan.plan_id in self.tasks:
                self.planned.add(place)
                self.calls[plan.plan_id] = (self.scheduler.adopt(plan), plan)

    @rule()
    def crash(self) -> None:
        self.start_holder()

    @rule()
    def read(self) -> None:
        matched = min(self.unmatched, default=len(self.events) + 1) - 1
        for place in sorted(self.queued):
            if place > self.read_up_to and place not in self.planned:
                delivery, key, at = self.queued[place]
                self.scheduler.add(Entry(place, delivery.sequence, key, size=1, queued_at=at))
            self.read_up_to = max(self.read_up_to, place)
        self.scheduler.see(matched)

    @rule(stored_only=strategies.booleans())
    def next(self, stored_only: bool) -> None:
        """Something begins; or the holder dies when the plan is stored and the bundle is not."""
        self.begin_next(stored_only=stored_only)

    def begin_next(self, *, stored_only: bool = False) -> bool:
        begin = self.scheduler.next(self.now, self.now)
        plan = None if begin is None else self.planned_for(begin)
        if begin is not None and plan is None:
            self.scheduler.ended(begin)
        elif begin is not None and plan is not None and stored_only:
            self.start_holder()
        elif begin is not None and plan is not None:
            self.calls[plan.plan_id] = (begin, plan)
            if plan.plan_id not in self.results:
                self.check_order(plan)
                self.tasks[plan.plan_id] = plan
        return begin is not None

    def planned_for(self, begin: Begin) -> Plan | None:
        if begin.plan is not None:
            return self.what_is_left(begin.plan)
        entries = [entry for entry in begin.entries if entry.place in self.queued]
        found = [(entry.place, self.queued[entry.place][0]) for entry in entries]
        # A predecessor may have begun some alone, without a plan.
        alone = [single(*each, ENDPOINT, begin.key) for each in found if each[0] <= self.taken_over_at]
        ended = [plan for plan in alone if self.flow.batch is not None and plan.plan_id in self.results]
        if ended:
            for plan in ended:
                self.scheduler.restore(plan)
            for entry in entries:
                if entry.place not in {plan.members[0].place for plan in ended}:
                    self.scheduler.add(entry)
            return None
        if not found:
            return None
        if len(found) == 1:
            return single(*found[0], ENDPOINT, begin.key)
        plan = together(found, ENDPOINT, begin.key)
        self.plans.setdefault(plan.name, plan)
        return plan

    def what_is_left(self, plan: Plan) -> Plan | None:
        left = [member for member in plan.members if member.place in self.queued]
        if len(left) == len(plan.members):
            return plan
        self.plans.pop(plan.name, None)
        if not left:
            return None
        self.plans[plan.of(left).name] = plan.of(left)
        return plan.of(left)

    @precondition(lambda self: self.ended_calls())
    @rule(data=strategies.data(), crash_after=strategies.sampled_from([None, None, 0, 1, 2, 3]))
    def settle(self, data: strategies.DataObject, crash_after: int | None) -> None:
        """A result is heard of, and what follows is stored; the holder may die after so many steps."""
        self.settle_call(data.draw(strategies.sampled_from(self.ended_calls())), crash_after)

    def ended_calls(self) -> list[UUID]:
        return sorted(each for each in self.calls if each in self.results)

    def settle_call(self, bundle: UUID, crash_after: int | None = None) -> None:
        begin, plan = self.calls.pop(bundle)
        verdict = self.verdict(plan)
        stored = begin.plan is not None or len(plan.members) > 1
        for number, step in enumerate(steps(plan, verdict, stored=stored), start=1):
            if step.bury is not None:
                self.dead.add(step.bury[0].delivery.sequence)
            for member in step.remove:
                self.queued.pop(member.place, None)
            if step.keep is not None:
                self.plans.setdefault(step.keep.name, step.keep)
            if step.drop is not None:
                self.plans.pop(step.drop.name, None)
            if number == crash_after:
                self.start_holder()
                return
        self.scheduler.ended(begin, verdict.again)

    def verdict(self, plan: Plan) -> Verdict:
        result = self.results[plan.plan_id]
        if result is None:
            return succeeded(plan)
        if isinstance(result, set):
            report = {"batchItemFailures": [{"itemIdentifier": each} for each in result]}
            assert reported_failures(plan, report) == result
            return partly_failed(plan, result, failure(plan, REPORTED), self.retry_rules, at=self.now)
        return failed(plan, failure(plan), "TaskFailed", self.retry_rules, at=self.now)

    # --- what must hold

    def check_order(self, plan: Plan) -> None:
        if self.flow.order_by is None:
            return
        for member in plan.members:
            sequence = member.delivery.sequence
            key = self.events[sequence - 1][0]
            mine = {each.delivery.sequence for each in plan.members}
            for earlier in range(1, sequence):
                if key is not None and self.events[earlier - 1][0] == key and earlier not in mine:
                    assert self.has_ended(earlier), f"{sequence} begins before {earlier} has ended"

    def has_ended(self, sequence: int) -> bool:
        return self.succeeded[sequence] > 0 or sequence in self.dead

    @invariant()
    def no_more_run_than_may(self) -> None:
        if hasattr(self, "flow"):
            assert len(self.tasks) <= (self.flow.concurrency or 0)

    @invariant()
    def nothing_has_succeeded_twice_or_after_its_death(self) -> None:
        if hasattr(self, "flow"):
            assert all(count <= 1 for count in self.succeeded.values())
            assert not {each for each in self.dead if self.succeeded[each]}

    @invariant()
    def what_is_matched_and_has_not_ended_is_stored(self) -> None:
        if hasattr(self, "flow"):
            stored = {delivery.sequence for delivery, *_ in self.queued.values()}
            for sequence in range(1, len(self.events) + 1):
                assert sequence in stored or sequence in self.unmatched or self.has_ended(sequence)

    def teardown(self) -> None:
        if not hasattr(self, "flow"):
            return
        for sequence in list(self.unmatched):
            self.queue(sequence)
        for _ in range(10 + 10 * len(self.events)):
            self.now += 6
            self.read()
            while self.begin_next():
                pass
            for bundle in sorted(self.tasks):
                self.run_bundle(bundle)
            for bundle in self.ended_calls():
                self.settle_call(bundle)
        assert not self.queued
        assert not self.plans
        assert all(self.has_ended(sequence) for sequence in range(1, len(self.events) + 1))
        assert (self.scheduler.running, self.scheduler.waiting, self.limits.running) == (0, 0, 0)
        poison = {number for number, (_, poison) in enumerate(self.events, start=1) if poison}
        batch = self.flow.batch
        if batch is None or batch.size == 1 or batch.bisect or batch.partial_failures:
            assert self.dead == poison
        else:
            assert self.dead >= poison  # those beside them in a batch, too


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestFlow = Machine.TestCase
