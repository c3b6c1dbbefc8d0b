"""Pools: their names, and what managers' reports say of them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.names import DEFAULT_POOL, token
from headrace.bus.queues.pools import pool_name
from headrace.bus.store.models import PoolRecord, PoolReport

ADA, GRACE = "urn:headrace:user:ada", "urn:headrace:user:grace"

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OPTIONS = st.dictionaries(st.text(), VALUES, min_size=1, max_size=4)


@given(OPTIONS, st.randoms())
def test_a_pool_has_one_name_whatever_the_order_of_its_options(options: dict[str, Any], chance: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            chance.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(each) for each in value] if isinstance(value, list) else value

    name = pool_name(ADA, options)

    assert name == pool_name(ADA, shuffled(options)) == pool_name(ADA, json.loads(json.dumps(options)))
    assert name == token(name)
    assert name != pool_name(GRACE, options)
    assert name != pool_name(ADA, options, "numpy")


@given(OPTIONS, OPTIONS)
def test_other_options_are_another_pool(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

    assert (pool_name(ADA, one) == pool_name(ADA, other)) == same


def test_without_options_it_is_the_default_pool() -> None:
    assert pool_name(ADA, {}) == DEFAULT_POOL
    assert pool_name(ADA, {}, "numpy") != DEFAULT_POOL


def pool(*reports: tuple[str, Any, int], wanted: int = 1) -> PoolRecord:
    said = tuple(
        PoolReport(manager=m, state=state, answers=n, at=0.0, problem=f"{m} says no") for m, state, n in reports
    )
    return PoolRecord(
        endpoint_id=UUID(int=1), pool="p-1", principal=ADA, options={}, used_at=0.0, wanted=wanted, reports=said
    )


@pytest.mark.parametrize(
    ("record", "wanted", "asleep"),
    [
        (pool(), True, False),
        (pool(("here", "running", 1)), False, False),
        (pool(("here", "stopped", 1)), False, True),
        (pool(("here", "stopped", 1), wanted=2), True, False),
        (pool(("here", "failed", 1)), False, True),
        (pool(("there", "failed", 1)), True, True),
        (pool(("there", "running", 1)), True, False),
        (pool(("there", "stopped", 1)), False, True),
        (pool(("there", "running", 1), ("here", "stopped", 1)), False, False),
        (pool(("there", "running", 2), ("here", "stopped", 1), wanted=2), True, False),
    ],
)
def test_a_manager_is_asked_once_for_each_wish(record: PoolRecord, wanted: bool, asleep: bool) -> None:
    assert record.wanted_of("here") is wanted
    assert record.asleep is asleep


def test_a_manager_that_comes_back_goes_on_with_what_it_ran() -> None:
    assert pool(("here", "running", 1)).wanted_of("here", restarted=True)
    assert not pool(("here", "stopped", 1), ("there", "running", 1)).wanted_of("here", restarted=True)


def test_a_pool_is_given_up_when_all_who_answered_the_last_wish_say_that_it_cannot_be_had() -> None:
    assert pool(("here", "failed", 1)).given_up
    assert pool(("here", "failed", 2), ("there", "stopped", 1), wanted=2).given_up
    assert not pool(("here", "failed", 1), wanted=2).given_up
    assert not pool(("here", "failed", 1), ("there", "stopped", 1)).given_up
    assert not pool(("here", "failed", 1), ("there", "running", 1)).given_up
    assert not pool().given_up


def test_a_pool_has_failed_when_every_manager_that_is_there_says_so_of_the_last_wish() -> None:
    one, both = pool(("here", "failed", 2), wanted=2), pool(("here", "failed", 2), ("there", "failed", 2), wanted=2)

    assert one.failure({"here"}) == "here says no"
    assert one.failure({"here", "there"}) is None
    assert both.failure({"here", "there"}) == "here says no"
    assert one.failure(set()) is None
    assert pool(("here", "failed", 1), wanted=2).failure({"here"}) is None
    assert pool(("here", "failed", 2), ("there", "running", 2), wanted=2).failure({"here", "there"}) is None
