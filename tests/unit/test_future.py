"""Futures are cancelled by the threads of their users while the loop's thread gives them their ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from headrace.sdk.future import TaskFuture


def test_a_future_begins_unless_it_has_ended() -> None:
    waiting, cancelled, done = TaskFuture(), TaskFuture(), TaskFuture()
    cancelled.cancel()
    done.set_result(1)

    assert waiting.begin()
    assert waiting.begin()
    assert waiting.running()
    assert not cancelled.begin()
    assert not done.begin()


@pytest.mark.parametrize("number", [1, 2])
def test_a_cancel_at_the_moment_of_the_end_is_an_error_for_nobody(number: int) -> None:
    for _ in range(300):
        future, errors = TaskFuture(), list[BaseException]()
        start = threading.Barrier(number + 1)

        def end(future: TaskFuture = future) -> None:
            if future.begin():
                future.set_result(1)

        def cancel(future: TaskFuture = future) -> None:
            future.cancel()

        def watched(
            work: Callable[[], None], start: threading.Barrier = start, errors: list[BaseException] = errors
        ) -> None:
            start.wait()
            try:
                work()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=watched, args=(work,)) for work in [end, *[cancel] * number]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert errors == []
        assert future.done()
