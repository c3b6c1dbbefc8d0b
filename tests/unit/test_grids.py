"""What grids know of functions, and how places on other machines are told which calls are to end."""

from __future__ import annotations

import os
import queue
import uuid
from uuid import UUID

import pytest
from waiting import eventually_async

from headrace.endpoint.engines.grids.control import Announcer, Listener
from headrace.endpoint.engines.grids.errands import Habit
from headrace.endpoint.engines.grids.orders import Control

pytestmark = pytest.mark.anyio


def noted(habit: Habit, *durations_s: float) -> Habit:
    for duration_s in durations_s:
        habit.note(duration_s)
    return habit


def test_calls_go_together_only_once_their_function_was_quick_for_a_while() -> None:
    habit = Habit()

    assert not habit.is_short
    assert noted(habit, 0.001).is_short
    assert not habit.is_tiny
    assert noted(habit, *[0.001] * 49).is_tiny


def test_a_function_that_was_slow_must_be_quick_for_ten_times_as_long() -> None:
    habit = noted(Habit(), *[0.001] * 50, 3.0)

    assert not habit.is_short
    assert not noted(habit, *[0.001] * 400).is_tiny
    assert noted(habit, *[0.001] * 100).is_tiny


async def test_a_place_is_told_of_calls_to_end_also_of_those_before_it_came() -> None:
    announcer, told = Announcer(), queue.SimpleQueue[UUID]()
    await announcer.start("127.0.0.1", (0, 0))
    before, after = uuid.uuid4(), uuid.uuid4()
    announcer.kill([before])
    control = Control(["127.0.0.2", "127.0.0.1"], announcer.port, announcer.secret)

    listener = Listener(control, lambda keys: told.put(keys[0]))

    await eventually_async(lambda: not told.empty())
    announcer.kill([after])
    await eventually_async(lambda: told.qsize() == 2)
    assert [told.get(), told.get()] == [before, after]
    listener.close()
    await announcer.stop()


async def test_nobody_but_the_pool_can_end_calls() -> None:
    announcer, told = Announcer(), queue.SimpleQueue[UUID]()
    await announcer.start("127.0.0.1", (0, 0))
    stranger = Control(["127.0.0.1"], announcer.port, os.urandom(32))

    listener = Listener(stranger, lambda keys: told.put(keys[0]))

    await eventually_async(lambda: announcer._places)
    announcer.kill([uuid.uuid4()])
    await eventually_async(lambda: not announcer._places, message="the place has gone away")
    assert told.empty()
    listener.close()
    await announcer.stop()
