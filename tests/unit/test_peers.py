"""What pools of one name say to each other, and how long they wait for it."""

from __future__ import annotations

import contextlib
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import DecodeError
from headrace.bus.queues.lane_consumers import ACK_WAIT_S
from headrace.endpoint.agent.company import ANSWER_S, STRANGERS_S, Company, Question
from headrace.endpoint.agent.peer_messages import (
    MOST_BUNDLES,
    PROCESS_BYTES,
    Answer,
    Ask,
    Leave,
    decode_peer,
    encode_peer,
    pack,
    unpack,
)

ME, OTHER, THIRD = (bytes([number]) * PROCESS_BYTES for number in range(3))

PROCESSES = st.binary(min_size=PROCESS_BYTES, max_size=PROCESS_BYTES)
BUNDLES = st.lists(st.uuids(), max_size=MOST_BUNDLES // 2).map(pack)
NUMBERS = st.integers(0, 1 << 60)


@given(
    st.one_of(
        st.builds(Ask, PROCESSES, NUMBERS, BUNDLES),
        st.builds(Answer, PROCESSES, NUMBERS, BUNDLES, BUNDLES),
        st.builds(Leave, PROCESSES),
    )
)
def test_what_is_said_is_what_is_heard(message: Ask | Answer | Leave) -> None:
    assert decode_peer(encode_peer(message)) == message


@given(st.lists(st.uuids()))
def test_ids_travel(bundles: list[UUID]) -> None:
    assert unpack(pack(bundles)) == bundles


@given(st.one_of(st.binary(), st.binary().map(lambda data: b"HP\x01" + data)))
def test_garbage_is_refused_in_one_way(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_peer(data)


@pytest.mark.parametrize(
    "message",
    [
        Ask(b"short"),
        Ask(OTHER, 1, b"not sixteen"),
        Answer(OTHER, 1, b"", b"not sixteen"),
        Answer(OTHER, 1, pack([uuid4()] * MOST_BUNDLES), pack([uuid4()])),
    ],
    ids=["process", "asked", "free", "too many"],
)
def test_ids_of_a_wrong_length_and_too_many_are_refused(message: Ask | Answer) -> None:
    with pytest.raises(DecodeError):
        decode_peer(encode_peer(message))


def asked(company: Company, at: float, *denied: bytes) -> float:
    """Until when a question of that moment waits, which these have answered with no."""
    question = Question(uuid4(), at)
    question.denied.update(denied)
    return company.wait_until(question)


def test_a_pool_that_has_been_alone_waits_for_strangers_after_a_new_connection_only() -> None:
    company = Company(0.0)
    company.connected(100.0)

    assert asked(company, 100.0) == 100.0 + STRANGERS_S
    assert asked(company, 200.0) <= 200.0


def test_all_who_are_known_are_waited_for_until_they_answer() -> None:
    company = Company(0.0)
    company.met(OTHER)
    company.met(THIRD)
    company.connected(100.0)

    assert asked(company, 100.1, OTHER) == 100.0 + ACK_WAIT_S
    assert asked(company, 100.1, OTHER, THIRD) <= 100.1
    # Long after the connection was made they have a moment.
    assert asked(company, 200.0, OTHER) == 200.0 + ANSWER_S


def test_a_young_process_does_not_know_who_is_on_the_way_back() -> None:
    company = Company(100.0)
    assert asked(company, 100.5) == 100.0 + ACK_WAIT_S
    company.met(OTHER)
    assert asked(company, 100.5, OTHER) == 100.0 + ACK_WAIT_S
    assert asked(company, 102.0, OTHER) <= 102.0


def test_who_has_left_or_is_silent_is_not_waited_for_again() -> None:
    company = Company(0.0)
    company.met(OTHER)
    company.left(OTHER)
    assert asked(company, 100.0) <= 100.0

    company.met(OTHER)
    company.met(THIRD)
    question = Question(uuid4(), 100.0)
    question.denied.add(THIRD)
    company.give_up(question)
    assert company.known == {THIRD}
    company.met(OTHER)
    assert asked(company, 200.0, THIRD) == 200.0 + ANSWER_S
