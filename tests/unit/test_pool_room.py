"""Room for users' pools: how many run at a time, and who gives way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.room import GIVES_WAY_AFTER_S, Room, Tenant

ROOM = Room(pools=3, pools_per_principal=2)


def tenant(pool: str, idle_s: float | None = None, *, leaves: bool = False) -> Tenant:
    """A pool named after its principal: `a1` is a's first one."""
    return Tenant(pool=pool, principal=pool[0], idle_s=idle_s, leaves=leaves)


def test_the_default_pool_is_one_of_those_that_may_run() -> None:
    config = EndpointConfig(max_pools=4, max_pools_per_principal=2)

    assert Room.of(config) == ROOM


@pytest.mark.parametrize(
    ("tenants", "principal", "has_place"),
    [
        ([], "a", True),
        ([tenant("a1")], "a", True),
        ([tenant("a1"), tenant("a2")], "a", False),
        ([tenant("a1"), tenant("a2")], "b", True),
        ([tenant("a1"), tenant("a2"), tenant("b1")], "c", False),
        ([tenant("a1"), tenant("a2"), tenant("b1", leaves=True)], "c", False),
    ],
)
def test_there_is_room_up_to_the_limits(tenants: list[Tenant], principal: str, has_place: bool) -> None:
    assert ROOM.has_place(tenants, principal) is has_place


@pytest.mark.parametrize(
    ("tenants", "waiting", "givers"),
    [
        # Nobody waits, nobody gives way.
        ([tenant("a1", 99), tenant("a2", 99), tenant("b1", 99)], "", []),
        # The longest idle one of all, for somebody who has none.
        ([tenant("a1", 5), tenant("a2"), tenant("b1", 9)], "c", ["b1"]),
        # One's own, where one has as many as one may.
        ([tenant("a1", 5), tenant("a2"), tenant("b1", 9)], "a", ["a1"]),
        # What works, or has only just stopped to, stays.
        ([tenant("a1"), tenant("a2", GIVES_WAY_AFTER_S / 2), tenant("b1")], "c", []),
        # One that leaves makes the room already.
        ([tenant("a1", 9), tenant("a2", 9, leaves=True), tenant("b1", 9)], "c", []),
        ([tenant("a1", 9), tenant("a2", 8), tenant("b1", 7)], "cc", ["a1", "a2"]),
    ],
)
def test_idle_pools_give_way(tenants: list[Tenant], waiting: str, givers: list[str]) -> None:
    assert list(ROOM.givers(tenants, waiting)) == givers


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.floats(0, 10), st.booleans()), max_size=6),
    st.text("abcd", max_size=5),
)
def test_only_idle_pools_give_way_each_once_and_no_more_than_wait(
    found: list[tuple[str, float | None, bool]], waiting: str
) -> None:
    tenants = [tenant(f"{name}{n}", idle_s, leaves=leaves) for n, (name, idle_s, leaves) in enumerate(found)]

    givers = list(ROOM.givers(tenants, waiting))

    by_name = {each.pool: each for each in tenants}
    assert len(set(givers)) == len(givers) <= len(waiting)
    assert all(by_name[each].idle_s is not None and not by_name[each].leaves for each in givers)
