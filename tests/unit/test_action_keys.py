"""Ids of actions lead to their records."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.store.action_keys import key_of_id, new_action_id, old_request_key, request_key

texts = st.text(min_size=1, max_size=80)

OTHER = "6a0d7b0e-1111-4222-8333-444455556666"


@given(provider=texts, creator=texts, request_id=texts, prefix=st.sampled_from(["", "tg_"]))
def test_an_id_leads_to_the_record_of_its_request(provider: str, creator: str, request_id: str, prefix: str) -> None:
    action_id = new_action_id(provider, creator, request_id)

    assert key_of_id(f"{prefix}{action_id}") == request_key(provider, creator, request_id)
    assert action_id.version == 8
    assert action_id.variant == uuid.RFC_4122


def test_another_life_of_a_request_has_another_id_under_the_same_key() -> None:
    ids = {new_action_id("/p", "urn:headrace:user:ada", "1") for _ in range(50)}

    assert len(ids) > 40
    assert len({key_of_id(str(each)) for each in ids}) == 1


@given(one=st.tuples(texts, texts, texts), other=st.tuples(texts, texts, texts))
def test_requests_have_keys_of_their_own(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (request_key(*one) == request_key(*other)) == (one == other)


@pytest.mark.parametrize("action_id", ["", "x", "tg_", f"tg_{OTHER}", OTHER, "a" * 500])
def test_other_ids_lead_nowhere(action_id: str) -> None:
    assert key_of_id(action_id) is None


def test_a_key_is_told_from_one_of_an_earlier_release_by_its_parts() -> None:
    assert request_key("/p", "c", "r").count(".") == 2
    assert old_request_key("/p", "c", "r").count(".") == 1
