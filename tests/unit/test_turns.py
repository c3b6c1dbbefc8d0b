"""Fair share inside a pool."""

from __future__ import annotations

import uuid
from collections import Counter
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.bundles import TaskOptions
from headrace.bus.code import FunctionCode
from headrace.endpoint.engine import Call
from headrace.endpoint.turns import Turns

CODE = FunctionCode(name="f", source="def f(): pass", entry_point="f")


def call() -> Call:
    key = uuid.uuid4()
    return Call(key=key, function=key, encoding=1, arguments=b"", options=TaskOptions(), code=CODE)


def test_one_users_many_tasks_do_not_delay_anothers_single_one() -> None:
    turns, group = Turns(), uuid.uuid4()
    for _ in range(1000):
        turns.put("ada", group, call())
    single = call()
    turns.put("grace", group, single)

    taken = [turns.take() for _ in range(2)]

    assert single in [turn[2] for turn in taken if turn is not None]


def test_groups_of_one_user_take_turns_as_well() -> None:
    turns, one, two = Turns(), uuid.uuid4(), uuid.uuid4()
    for _ in range(10):
        turns.put("ada", one, call())
    for _ in range(10):
        turns.put("ada", two, call())

    taken = Counter(turn[1] for turn in (turns.take() for _ in range(10)) if turn is not None)

    assert taken == {one: 5, two: 5}


def test_removed_calls_are_not_taken() -> None:
    turns, group = Turns(), uuid.uuid4()
    calls = [call() for _ in range(3)]
    for one in calls:
        turns.put("ada", group, one)

    removed = turns.remove("ada", group, {calls[0].key, calls[2].key, uuid.uuid4()})

    assert removed == [calls[0], calls[2]]
    assert len(turns) == 1
    assert turns.take() == ("ada", group, calls[1])
    assert turns.take() is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([UUID(int=1), UUID(int=2)]), st.booleans())))
def test_every_call_is_taken_once_and_in_order_within_its_group(script: list[tuple[str, UUID, bool]]) -> None:
    turns = Turns()
    waiting: dict[tuple[str, UUID], list[Call]] = {}
    for principal, group, take in script:
        if take:
            turn = turns.take()
            if turn is not None:
                assert waiting[turn[0], turn[1]].pop(0) is turn[2]
        else:
            one = call()
            waiting.setdefault((principal, group), []).append(one)
            turns.put(principal, group, one)
        assert len(turns) == sum(map(len, waiting.values()))
    while (turn := turns.take()) is not None:
        assert waiting[turn[0], turn[1]].pop(0) is turn[2]
    assert not any(waiting.values())
