"""The small future does what the standard library's does, whatever is asked of it in whatever order."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.sdk.light_future import LightFuture

STEPS: dict[str, Callable[[Any], Any]] = {
    "cancel": lambda future: future.cancel(),
    "begin": lambda future: future.set_running_or_notify_cancel(),
    "succeed": lambda future: future.set_result(7),
    "fail": lambda future: future.set_exception(KeyError("k")),
    "state": lambda future: (future.done(), future.running(), future.cancelled()),
    "result": lambda future: future.result(0),
    "exception": lambda future: str(future.exception(0)),
    "wait": lambda future: [len(each) for each in concurrent.futures.wait([future], timeout=0)],
    "completed": lambda future: sum(1 for _ in concurrent.futures.as_completed([future], timeout=0)),
}


def outcome(step: str, future: Any) -> object:
    """What a step gives, or the kind of error that it raises."""
    try:
        return STEPS[step](future)
    except Exception as error:
        # A step that cannot be is a programming error in both: the standard library has several kinds for it.
        return Exception if isinstance(error, RuntimeError | concurrent.futures.InvalidStateError) else type(error)


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is not an error
@given(st.lists(st.sampled_from([*STEPS, "listen"]), max_size=8))
def test_every_order_of_steps_has_the_outcome_of_the_standard_future(steps: list[str]) -> None:
    standard: concurrent.futures.Future[Any] = concurrent.futures.Future()
    light = LightFuture()
    heard: dict[str, int] = {"standard": 0, "light": 0}
    for step in steps:
        if step == "listen":
            standard.add_done_callback(lambda _: heard.__setitem__("standard", heard["standard"] + 1))
            light.add_done_callback(lambda _: heard.__setitem__("light", heard["light"] + 1))
        else:
            assert outcome(step, light) == outcome(step, standard), (step, steps)
        assert heard["light"] == heard["standard"]


def test_threads_that_wait_are_woken_by_the_result() -> None:
    future = LightFuture()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(future.result(20))) for _ in range(4)]
    for thread in threads:
        thread.start()

    future.set_result("here")

    for thread in threads:
        thread.join(20)
    assert found == ["here"] * 4


def test_many_are_waited_for_while_they_end() -> None:
    futures = [LightFuture() for _ in range(200)]

    def end() -> None:
        for number, future in enumerate(futures):
            future.set_result(number)

    ending = threading.Thread(target=end)
    completed = concurrent.futures.as_completed(futures, timeout=20)

    ending.start()

    assert {future.result() for future in completed} == set(range(200))
    ending.join(20)


def test_a_coroutine_can_await_one() -> None:
    async def awaited() -> Any:
        future = LightFuture()
        threading.Thread(target=future.set_result, args=(3,)).start()
        return await asyncio.wrap_future(future)

    assert asyncio.run(awaited()) == 3


def test_a_callback_that_raises_keeps_no_other_from_being_called(caplog: pytest.LogCaptureFixture) -> None:
    future = LightFuture()
    heard: list[LightFuture] = []
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(heard.append)

    future.set_result(None)

    assert heard == [future]
    assert "raised" in caplog.text


def test_one_that_nobody_waits_for_is_small() -> None:
    future = LightFuture()
    future.set_result(None)

    assert sys.getsizeof(future) < 200
    assert future._made_condition is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_futures_that_work() -> None:
    child = os.fork()
    if child == 0:
        future = LightFuture()
        future.set_result(0)
        os._exit(future.result(60))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
