"""Bundling: nothing waits when idle, what piles up goes together, ids are there at once."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.bus.ids import split_task_id
from headrace.bus.tasks.bundles import FunctionUse, TaskOptions
from headrace.sdk.errors import QueueFull, SubmissionRefused
from headrace.sdk.future import TaskFuture
from headrace.sdk.limits import MOST_UNSENT_BYTES, MOST_UNSENT_TASKS, WhenFull
from headrace.sdk.outbox import BUNDLE_BYTES, FIRST_CAP, LARGEST_CAP, Draft, NewTask, Outbox

MOST_TASKS, MOST_BYTES = 12, 900_000
USE = FunctionUse(uuid.uuid4(), b"", 0)


class Sink:
    """An outbox whose bundles are kept instead of sent."""

    def __init__(self, most_tasks: int = MOST_UNSENT_TASKS, most_bytes: int = MOST_UNSENT_BYTES) -> None:
        self.sent: list[Draft] = []
        self.wakes = 0
        self.outbox = Outbox(
            uuid.uuid4(), send=self.sent.append, wake=self._wake, most_tasks=most_tasks, most_bytes=most_bytes
        )

    def _wake(self) -> None:
        self.wakes += 1

    def add(self, size: int = 10) -> TaskFuture:
        future = TaskFuture()
        self.outbox.add(NewTask(USE, TaskOptions(), 1, b"x" * size, future), when_full=WhenFull(raises=True))
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


def test_bundles_grow_with_what_waits_for_results_also_where_tasks_are_long() -> None:
    backlog = [0]
    outbox = Outbox(uuid.uuid4(), send=lambda _: None, wake=lambda: None, backlog=lambda: backlog[0])
    outbox.learn(10.0)
    caps = []
    for backlog[0] in (0, 500, 5_000, 1_000_000):
        caps.append(outbox.cap)

    assert caps == [1, 3, 39, LARGEST_CAP]


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


def test_what_is_not_stored_is_bounded_and_what_was_withdrawn_or_stored_makes_room() -> None:
    sink = Sink(most_tasks=3)
    futures = [sink.add() for _ in range(3)]
    with pytest.raises(QueueFull, match=r"3 tasks .* wait to be stored"):
        sink.add()

    assert sink.outbox.withdraw(futures[1])
    sink.add()
    with pytest.raises(QueueFull):
        sink.add()
    sink.outbox.pump()
    sink.outbox.sent(sink.sent[0])

    assert (sink.outbox.room.tasks, sink.outbox.room.size) == (0, 0)
    sink.add()


def test_withdrawing_twice_makes_room_once() -> None:
    sink = Sink()
    future = sink.add()
    sink.outbox.withdraw(future)
    sink.outbox.withdraw(future)

    assert (sink.outbox.room.tasks, sink.outbox.room.size) == (0, 0)


def test_nothing_goes_into_an_outbox_that_is_closed() -> None:
    sink = Sink()
    sink.add()

    assert len(sink.outbox.close()) == 1
    with pytest.raises(SubmissionRefused, match="closed"):
        sink.add()
    assert sink.outbox.room.tasks == 0


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
    """Adding, withdrawing, acking and learning in any order: nothing is lost, doubled, sent too early or too much."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = Sink(most_tasks=MOST_TASKS, most_bytes=MOST_BYTES)
        self.live: set[uuid.UUID] = set()
        self.futures: list[TaskFuture] = []
        self.acked = 0

    @rule(size=st.integers(0, 300_000))
    def add(self, size: int) -> None:
        is_free = self.sink.outbox.room.is_free
        try:
            future = self.sink.add(size)
        except QueueFull:
            assert not is_free
            return
        assert is_free
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

    @invariant()
    def no_more_is_held_than_there_is_room_for(self) -> None:
        assert self.sink.outbox._unsent_tasks == sum(len(each.tasks) for each in self.sink.outbox._unsent.values())
        waiting = sum(draft.live for draft in [*self.sink.outbox._unsent.values(), *self.sink.sent[self.acked :]])
        assert waiting == self.sink.outbox.room.tasks <= MOST_TASKS
        assert self.sink.outbox.room.size < MOST_BYTES + 301_000

    def teardown(self) -> None:
        self.sink.outbox.pump()
        while self.acked < len(self.sink.sent):
            self.ack()
        sent = {f.task_id for draft in self.sink.sent for f in draft.futures if f is not None}
        assert sent == self.live
        assert (self.sink.outbox.room.tasks, self.sink.outbox.room.size) == (0, 0)


TestBundling = BundlingMachine.TestCase
