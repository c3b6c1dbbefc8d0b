"""Room for tasks: who finds none waits, or is told; nobody gets more than there is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from waiting import eventually

from headrace.sdk import QueueFull
from headrace.sdk.executor import Executor
from headrace.sdk.future import TaskFuture
from headrace.sdk.limits import BLOCK, Room, WhenFull
from headrace.sdk.loop import loop_thread
from headrace.sdk.unfinished import Unfinished

RAISE = WhenFull(raises=True)


def room(**limits: int) -> Room:
    return Room(lambda tasks, size: f"{tasks} tasks and {size} bytes are here", **limits)


def nothing() -> None:
    pass


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    """Work on a thread, and what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_who_finds_no_room_and_does_not_want_to_wait_is_told_what_is_full() -> None:
    full = room(most_tasks=2)
    full.take(10, RAISE, nothing)
    full.take(10, RAISE, nothing)

    with pytest.raises(QueueFull, match="2 tasks and 20 bytes") as caught:
        full.take(10, RAISE, nothing)

    assert caught.value.limit == 2


def test_bytes_count_as_well_but_one_large_task_passes() -> None:
    full = room(most_bytes=100)
    full.take(5_000, RAISE, nothing)

    with pytest.raises(QueueFull):
        full.take(1, RAISE, nothing)
    full.give(1, 5_000)
    full.take(1, RAISE, nothing)


def test_who_waits_gets_the_room_that_is_given_back() -> None:
    full = room(most_tasks=1)
    full.take(0, BLOCK, nothing)
    thread, raised = in_thread(lambda: full.take(0, BLOCK, nothing))
    eventually(lambda: full._waiting == 1)

    full.give(1, 0)

    thread.join(20)
    assert not raised
    assert full.tasks == 1


def test_a_wait_has_an_end_if_the_caller_wants_one() -> None:
    full = room(most_tasks=1)
    full.take(0, BLOCK, nothing)

    with pytest.raises(QueueFull, match=r"still so after 0\.05 s"):
        full.take(0, WhenFull(timeout_s=0.05), nothing)
    assert full.tasks == 1
    assert full._waiting == 0


def test_who_waits_is_woken_to_hear_that_it_is_over() -> None:
    full, over = room(most_tasks=1), threading.Event()
    full.take(0, BLOCK, nothing)

    def check() -> None:
        if over.is_set():
            raise RuntimeError("shut down")

    thread, raised = in_thread(lambda: full.take(0, BLOCK, check))
    eventually(lambda: full._waiting == 1)
    over.set()
    full.wake()

    thread.join(20)
    assert str(raised[0]) == "shut down"


def test_the_loop_thread_never_waits_since_it_makes_the_room() -> None:
    full = room(most_tasks=1)
    full.take(0, BLOCK, nothing)
    taken, refused = threading.Event(), threading.Event()

    def callback() -> None:
        full.take(0, BLOCK, nothing)
        taken.set()
        try:
            full.take(0, RAISE, nothing)
        except QueueFull:
            refused.set()

    loop_thread().call(callback)

    assert taken.wait(20)
    assert refused.wait(20)


def test_many_threads_never_hold_more_than_there_is() -> None:
    full, most, highest = room(most_tasks=3), 3, [0]

    def work() -> None:
        for _ in range(200):
            full.take(1, BLOCK, nothing)
            highest[0] = max(highest[0], full.tasks)
            full.give(1, 1)

    threads = [in_thread(work)[0] for _ in range(6)]
    for thread in threads:
        thread.join(20)

    assert highest[0] <= most
    assert (full.tasks, full.size) == (0, 0)


def test_an_unfinished_future_is_held_until_it_ends_however_it_ends() -> None:
    idle: list[bool] = []
    unfinished = Unfinished(2, lambda: idle.append(True))
    futures = [TaskFuture(), TaskFuture()]
    for future in futures:
        unfinished.add(future, RAISE, nothing)
    with pytest.raises(QueueFull, match="max_unfinished"):
        unfinished.add(TaskFuture(), RAISE, nothing)

    futures[0].cancel()
    futures[1].set_exception(ValueError())

    assert not unfinished.snapshot()
    assert idle == [True]
    unfinished.add(TaskFuture(), RAISE, nothing)


def test_a_callback_finds_the_room_that_its_future_has_left() -> None:
    unfinished, first, second = Unfinished(1, nothing), TaskFuture(), TaskFuture()
    unfinished.add(first, RAISE, nothing)
    first.add_done_callback(lambda _: unfinished.add(second, RAISE, nothing))

    first.set_result(None)

    assert unfinished.snapshot() == [second]


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"max_unfinished": 0}, ValueError, "max_unfinished"),
        ({"max_unfinished": 1.5}, TypeError, "max_unfinished"),
        ({"max_unfinished": True}, TypeError, "max_unfinished"),
        ({"when_full": "explode"}, ValueError, "when_full"),
        ({"full_timeout_s": -1}, ValueError, "full_timeout_s"),
        ({"full_timeout_s": float("nan")}, ValueError, "full_timeout_s"),
        ({"full_timeout_s": "soon"}, TypeError, "full_timeout_s"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_name(
    arguments: dict[str, Any], error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=name):
        Executor(**arguments)


def test_a_view_may_refuse_where_its_executor_waits() -> None:
    executor = Executor(full_timeout_s=3)

    view = executor.with_options(when_full="raise")

    assert (view._submission.when_full, executor._submission.when_full) == (
        WhenFull(raises=True, timeout_s=3),
        WhenFull(timeout_s=3),
    )
    assert view.with_options(full_timeout_s=None)._submission.when_full == WhenFull(raises=True)
    with pytest.raises(ValueError, match="when_full"):
        executor.with_options(when_full="perhaps")  # type: ignore[arg-type]  # what is refused
