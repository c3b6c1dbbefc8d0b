"""Who a caller is, and whom a list of URNs lets in."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import ConsentRequired
from headrace.bus.functions.allow_list import AllowList
from headrace.bus.store.models import EndpointRecord
from headrace.bus.urns import GLOBUS_GROUP_URN, GLOBUS_IDENTITY_URN, USER_URN, canonical

ADA, LINKED = (f"{GLOBUS_IDENTITY_URN}{uuid.uuid4()}" for _ in range(2))
GROUP = f"{GLOBUS_GROUP_URN}{uuid.uuid4()}"


def caller(find_groups: Callable[[], Awaitable[frozenset[str]]] | None = None) -> Caller:
    return Caller(
        principal=ADA,
        token_id="t",
        urns=frozenset({ADA, LINKED}),
        linked=frozenset({LINKED}),
        find_groups=find_groups,
    )


async def in_group() -> frozenset[str]:
    return frozenset({GROUP})


async def must_consent() -> frozenset[str]:
    raise ConsentRequired("agree first", required_scope="s[g]")


def among(who: Caller, *urns: str) -> frozenset[str]:
    return asyncio.run(who.among(urns))


@given(st.sampled_from([GLOBUS_IDENTITY_URN, GLOBUS_GROUP_URN]), st.uuids())
def test_uuids_of_globus_mean_the_same_in_both_cases(kind: str, value: uuid.UUID) -> None:
    assert canonical(f"{kind}{value}".upper()) == canonical(f"{kind}{value}")


def test_names_of_users_differ_by_case() -> None:
    assert canonical(f"{USER_URN}Ada") != canonical(f"{USER_URN}ada")


def test_a_caller_is_every_identity_that_is_linked() -> None:
    assert caller().is_(LINKED.upper())
    assert caller().is_(ADA)
    assert not caller().is_(GROUP)
    assert among(caller(), GROUP, LINKED.upper()) == {LINKED}


def test_groups_are_asked_for_only_where_nothing_else_decides() -> None:
    assert among(caller(must_consent), GROUP, LINKED) == {LINKED}
    assert among(caller(must_consent), f"{USER_URN}bob") == frozenset()
    assert among(caller(in_group), GROUP.upper()) == {GROUP}
    assert among(caller(in_group), f"{GLOBUS_GROUP_URN}{uuid.uuid4()}") == frozenset()
    with pytest.raises(ConsentRequired):
        among(caller(must_consent), GROUP)


def test_what_is_shared_or_allowed_in_capitals_is_shared_and_allowed() -> None:
    endpoint = EndpointRecord(
        endpoint_id=uuid.uuid4(), name="e", owner=ADA.upper(), created_at=0, token_id="", shared_with=(LINKED.upper(),)
    )
    assert endpoint.visible_to({ADA})
    assert endpoint.visible_to({LINKED})
    assert not endpoint.visible_to({GROUP})
    assert AllowList.of(None, [ADA.upper()]).permits(uuid.uuid4(), ADA)
