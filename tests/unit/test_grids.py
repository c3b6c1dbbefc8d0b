"""What grids know of functions, and how places on other machines are told which calls are to end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import uuid
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually_async

from headrace.bus.errors import SignatureInvalid
from headrace.bus.sealing import Sealer
from headrace.endpoint.engines.grids.control import PIECE_BYTES, Announcer, Listener
from headrace.endpoint.engines.grids.errands import Habit
from headrace.endpoint.engines.grids.grid import OnPrinted, Piece
from headrace.endpoint.engines.grids.heard import Heard
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
    told: list[UUID] = []
    before, after = uuid.uuid4(), uuid.uuid4()
    async with announcing() as announcer:
        announcer.kill([before])
        control = Control(["127.0.0.2", "127.0.0.1"], announcer.port, announcer.secret)
        async with listening(control, told):
            await eventually_async(lambda: told)
            announcer.kill([after])
            await eventually_async(lambda: len(told) == 2)
    assert told == [before, after]


async def test_a_pool_is_told_what_calls_print_at_a_place() -> None:
    key, pieces = uuid.uuid4(), [(0, 7, 1, 0, 1.5, b"x" * PIECE_BYTES), (1, 7, 1, 0, 2.5, b"a line")]
    heard: list[tuple[UUID, str, Piece]] = []
    async with announcing(lambda *printed: heard.append(printed)) as announcer:
        control = Control(["127.0.0.1"], announcer.port, announcer.secret)
        async with listening(control, []) as listener:
            await eventually_async(lambda: announcer._places)
            for piece in pieces:
                listener.tell(key, "node/1", piece)
            await eventually_async(lambda: len(heard) == 2)
    assert heard == [(key, "node/1", piece) for piece in pieces]


async def test_who_does_not_know_the_secret_is_neither_told_nor_heard() -> None:
    heard: list[object] = []
    async with announcing(lambda *printed: heard.append(printed)) as announcer:
        announcer.kill([uuid.uuid4()])
        reader, writer = await asyncio.open_connection("127.0.0.1", announcer.port)
        writer.write(bytes(16))
        ours = await reader.readexactly(16)
        record = Sealer(os.urandom(32), "to pool", bytes(16), ours).seal(b"")
        writer.write(len(record).to_bytes(4, "little") + record)
        assert await reader.read() == b"", "it is sent away, and told nothing"
        writer.close()
        assert not announcer._places
    assert heard == []


async def test_a_pool_that_is_not_the_pool_ends_no_calls() -> None:
    told: list[UUID] = []
    async with announcing() as announcer:
        announcer.kill([uuid.uuid4()])
        async with listening(Control(["127.0.0.1"], announcer.port, os.urandom(32)), told) as listener:
            with contextlib.suppress(asyncio.IncompleteReadError, SignatureInvalid):
                await listener._follow("127.0.0.1")
    assert told == []


@contextlib.asynccontextmanager
async def announcing(on_printed: OnPrinted | None = None) -> AsyncIterator[Announcer]:
    announcer = Announcer(on_printed)
    await announcer.start("127.0.0.1", (0, 0))
    try:
        yield announcer
    finally:
        await announcer.stop()


@contextlib.asynccontextmanager
async def listening(control: Control, told: list[UUID]) -> AsyncIterator[Listener]:
    listener = Listener(control, told.extend)
    listener.start()
    try:
        yield listener
    finally:
        await listener.close()


def cut(data: bytes, places: set[int]) -> list[tuple[int, bytes]]:
    """The data in pieces, each with its offset."""
    ends = sorted({place for place in places if 0 < place < len(data)} | {0, len(data)})
    return [(start, data[start:end]) for start, end in itertools.pairwise(ends)]


@given(st.binary(min_size=1, max_size=40), st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)), st.data())
def test_what_came_on_the_way_and_what_comes_with_the_end_are_all_of_it_once(
    data: bytes, on_the_way: set[int], at_the_end: set[int], draw: st.DataObject
) -> None:
    heard, known = Heard(), b""
    for offset, part in cut(data, on_the_way):
        if draw.draw(st.booleans(), label="it gets through") and heard.follows((0, 1, 1, offset, 0.0, part)):
            known += part

    rest = heard.rest([(0, 1, 1, offset, 0.0, part) for offset, part in cut(data, at_the_end)])

    for _, _, _, offset, _, part in rest:
        assert offset == len(known)
        known += part
    assert known == data
