"""Bundling: nothing waits when idle, what piles up goes together, ids are there at once."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.bus.bundles import FunctionUse, TaskOptions
from headrace.bus.ids import split_task_id
from headrace.sdk.future import TaskFuture
from headrace.sdk.outbox import BUNDLE_BYTES, FIRST_CAP, LARGEST_CAP, Draft, Outbox

USE = FunctionUse(uuid.uuid4(), b"", 0)


class Sink:
    """An outbox whose bundles are kept instead of sent."""

    def __init__(self) -> None:
        self.sent: list[Draft] = []
        self.wakes = 0
        self.outbox = Outbox(uuid.uuid4(), send=self.sent.append, wake=self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def add(self, size: int = 10) -> TaskFuture:
        future = TaskFuture()
        self.outbox.add(USE, TaskOptions(), 1, b"x" * size, future)
        return future


def test_a_task_goes_out_alone_and_at_once_when_nothing_is_in_flight() -> None:
    sink = Sink()
    future = sink.add()

    sink.outbox.pump()

    assert [len(draft.tasks) for draft in sink.sent] == [1]
    assert future.task_id is not None
    assert split_task_id(future.task_id) == (sink.sent[0].id, 0)


def test_what_piles_up_behind_bundles_in_flight_goes_out_together() -> None:
    sink = Sink()
    for _ in range(2):
        sink.add()
        sink.outbox.pump()
    for _ in range(3):
        sink.add()
        sink.outbox.pump()
    assert len(sink.sent) == 2

    sink.outbox.sent(sink.sent[0])

    assert [len(draft.tasks) for draft in sink.sent] == [1, 1, 3]


def test_the_loop_is_woken_once_however_many_tasks_come() -> None:
    sink = Sink()
    for _ in range(100):
        sink.add()

    assert sink.wakes == 1


def test_bundles_grow_while_tasks_are_short_and_shrink_at_once_when_one_is_long() -> None:
    outbox = Sink().outbox
    assert outbox.cap == FIRST_CAP
    for _ in range(10):
        outbox.learn(0.000_01)
    assert outbox.cap == LARGEST_CAP

    outbox.learn(10.0)

    assert outbox.cap == 1


def test_large_arguments_do_not_share_a_message() -> None:
    sink = Sink()
    for _ in range(3):
        sink.add(BUNDLE_BYTES)
    sink.outbox.pump()

    assert [len(draft.tasks) for draft in sink.sent] == [1, 1, 1]


def test_a_task_that_was_not_sent_can_be_withdrawn() -> None:
    sink = Sink()
    kept, withdrawn = sink.add(), sink.add()

    assert sink.outbox.withdraw(withdrawn)
    sink.outbox.pump()

    assert [task.index for task in sink.sent[0].live_tasks()] == [0]
    assert not sink.outbox.withdraw(kept)


@given(st.lists(st.integers(0, 3), max_size=200))
def test_every_task_is_sent_once_under_the_id_its_future_has(script: list[int]) -> None:
    sink = Sink()
    futures: list[TaskFuture] = []
    acked = 0
    for step in script:
        if step < 3:
            futures.append(sink.add(size=10**step))
        elif acked < len(sink.sent):
            sink.outbox.sent(sink.sent[acked])
            acked += 1
        sink.outbox.pump()
    while acked < len(sink.sent):
        sink.outbox.sent(sink.sent[acked])
        acked += 1

    sent = [future.task_id for draft in sink.sent for future in draft.futures if future is not None]
    assert sent == [future.task_id for future in futures]
    assert len(set(sent)) == len(sent)


class BundlingMachine(RuleBasedStateMachine):
    """Adding, withdrawing, acking and learning in any order: nothing is lost, doubled or sent too early."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = Sink()
        self.live: set[uuid.UUID] = set()
        self.futures: list[TaskFuture] = []
        self.acked = 0

    @rule(size=st.integers(0, 300_000))
    def add(self, size: int) -> None:
        future = self.sink.add(size)
        assert future.task_id is not None
        self.futures.append(future)
        self.live.add(future.task_id)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.futures:
            future = data.draw(st.sampled_from(self.futures))
            if self.sink.outbox.withdraw(future):
                assert future.task_id is not None
                self.live.discard(future.task_id)

    @rule()
    def pump(self) -> None:
        self.sink.outbox.pump()

    @rule()
    def ack(self) -> None:
        if self.acked < len(self.sink.sent):
            draft = self.sink.sent[self.acked]
            self.acked += 1
            self.sink.outbox.sent(draft)

    @rule(duration_s=st.floats(0, 100))
    def learn(self, duration_s: float) -> None:
        self.sink.outbox.learn(duration_s)

    @invariant()
    def nothing_is_doubled(self) -> None:
        sent = [f.task_id for draft in self.sink.sent for f in draft.futures if f is not None]
        assert len(set(sent)) == len(sent)

    def teardown(self) -> None:
        self.sink.outbox.pump()
        while self.acked < len(self.sink.sent):
            self.ack()
        sent = {f.task_id for draft in self.sink.sent for f in draft.futures if f is not None}
        assert sent == self.live


TestBundling = BundlingMachine.TestCase
