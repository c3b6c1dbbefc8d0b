"""Joins as changes of a record: what comes together, what expires, and that nothing is used twice or lost."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.joins import MOST_WAITING, Join, JoinRecord, Part, compile_join

WITHIN_S = 10.0
NAMES = ("a", "b", "c")


def part(number: int, at: float) -> Part:
    return Part(id=str(number), sequence=number, at=at)


def sets(record: JoinRecord, kind: str) -> list[dict[str, list[str]]]:
    return [
        {name: [each.id for each in parts] for name, parts in closed.parts.items()}
        for closed in record.closed
        if closed.kind == kind
    ]


def test_one_of_each_name_is_a_set_and_the_next_ones_make_the_next() -> None:
    record = JoinRecord(key="k")
    for number, (name, at) in enumerate([("a", 0.0), ("a", 1.0), ("b", 2.0), ("b", 3.0), ("b", 4.0)]):
        record = record.with_part([name], part(number, at), ("a", "b"), WITHIN_S)
    assert sets(record, "complete") == [{"a": ["0"], "b": ["2"]}, {"a": ["1"], "b": ["3"]}]
    assert record.due(WITHIN_S) == 14.0
    assert sets(record.expired(14.0, WITHIN_S), "expired") == []
    late = record.expired(14.1, WITHIN_S)
    assert (sets(late, "expired"), late.due(WITHIN_S)) == ([{"b": ["4"]}], None)


def test_what_lies_further_apart_than_the_window_does_not_come_together() -> None:
    record = JoinRecord(key="k").with_part(["a"], part(1, 0.0), ("a", "b"), WITHIN_S)
    apart = record.with_part(["b"], part(2, 10.5), ("a", "b"), WITHIN_S)
    assert apart.closed == ()
    # Of events that are caught up with, the one that belongs to the first may come behind the other.
    found = apart.with_part(["b"], part(3, 10.0), ("a", "b"), WITHIN_S)
    assert sets(found, "complete") == [{"a": ["1"], "b": ["3"]}]
    assert found.due(WITHIN_S) == 20.5


def test_an_event_that_fits_several_names_stands_for_one_that_is_missed() -> None:
    record = JoinRecord(key="k").with_part(["a"], part(1, 0.0), ("a", "b"), WITHIN_S)
    both = record.with_part(["a", "b"], part(2, 1.0), ("a", "b"), WITHIN_S)
    assert sets(both, "complete") == [{"a": ["1"], "b": ["2"]}]


def test_what_waits_under_one_key_is_bounded() -> None:
    record = JoinRecord(key="k")
    for number in range(MOST_WAITING + 3):
        record = record.with_part(["a"], part(number, float(number)), ("a", "b"), 1e9)
    assert len(record.waiting["a"]) == MOST_WAITING
    assert sets(record, "expired") == [{"a": ["0"]}, {"a": ["1"]}, {"a": ["2"]}]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.floats(0, 60)), max_size=30), st.randoms())
def test_every_event_is_told_of_once_in_whatever_order_they_come(
    events: list[tuple[str, float]], random: object
) -> None:
    record = JoinRecord(key="k")
    arriving = list(enumerate(events))
    random.shuffle(arriving)  # type: ignore[attr-defined]  # hypothesis gives a Random
    for number, (name, at) in arriving:
        record = record.with_part([name], part(number, at), NAMES, WITHIN_S)
        # Whoever takes it again changes nothing.
        assert record.with_part([name], part(number, at), NAMES, WITHIN_S) == record
    record = record.expired(1000.0, WITHIN_S)
    assert not record.waiting
    told = Counter(each.id for closed in record.closed for parts in closed.parts.values() for each in parts)
    assert told == Counter(str(number) for number in range(len(events)))
    for closed in record.closed:
        if closed.kind == "complete":
            times = [each.at for parts in closed.parts.values() for each in parts]
            assert set(closed.parts) == set(NAMES)
            assert max(times) - min(times) <= WITHIN_S + 1e-6
    names = [closed.name("s", "k") for closed in record.closed]
    assert len(set(names)) == len(names)
    for each in record.closed:
        record = record.told(each)
    assert record.closed == ()


def test_sets_of_other_keys_and_subscriptions_are_told_by_other_events() -> None:
    record = JoinRecord(key="k").with_part(["a"], part(1, 0.0), ("a",), WITHIN_S)
    names = {record.closed[0].name(*each) for each in itertools.product(("s", "t"), ("k", "l"))}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("join", "pointer"),
    [
        (Join(of={"a": {"exact": {"Type": "x"}}}, key="k", within_s=1), "/of/a/exact/Type"),
        (Join(of={}, key="{{ event. }}", within_s=1), "/key"),
    ],
)
def test_what_does_not_compile_is_told_with_its_place(join: Join, pointer: str) -> None:
    with pytest.raises(FilterInvalid) as invalid:
        compile_join(join)
    assert invalid.value.pointer == pointer
