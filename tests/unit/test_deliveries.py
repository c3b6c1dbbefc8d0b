"""Deliveries: their ids follow from what they deliver, and they come back as they were sent."""

from __future__ import annotations

import time
import uuid
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import DecodeError
from headrace.bus.eventing.deliveries import Delivery, FailedAttempt, Waiting
from headrace.bus.eventing.retries import RetryPolicy
from headrace.bus.ids import new_bundle_id, split_task_id, submitted_at

ENDPOINT = uuid.uuid4()
DELIVERY = Delivery(uuid.uuid4(), "default", 7, "/s", "1")


def delivery(**changes: Any) -> Delivery:
    fields = {"subscription": DELIVERY.subscription, "bus": "default", "sequence": 7, "source": "/s", "event_id": "1"}
    return Delivery(**{**fields, **changes})


def failure(attempt: int = 1, **more: Any) -> FailedAttempt:
    return FailedAttempt(attempt, uuid.uuid4(), "failed", "ValueError", **more)


def test_the_same_attempt_has_the_same_ids_wherever_the_event_is_stored() -> None:
    again = delivery(sequence=99, failed=[failure()])
    assert again.bundle_id(ENDPOINT) == DELIVERY.bundle_id(ENDPOINT)
    assert split_task_id(DELIVERY.task_id(ENDPOINT)) == (DELIVERY.bundle_id(ENDPOINT), 0)


def test_what_differs_in_anything_else_has_other_ids() -> None:
    others = [
        DELIVERY,
        delivery(subscription=uuid.uuid4()),
        delivery(bus="other"),
        delivery(source="/t"),
        delivery(event_id="2"),
        delivery(source="/s1", event_id=""),
        delivery(attempt=2),
        delivery(replay=ENDPOINT),
        delivery(replay=DELIVERY.subscription),
    ]
    assert len({each.bundle_id(ENDPOINT) for each in others}) == len(others)
    assert DELIVERY.delivery_id(ENDPOINT) == delivery(attempt=2).delivery_id(ENDPOINT)
    assert DELIVERY.delivery_id(ENDPOINT) not in {each.bundle_id(ENDPOINT) for each in others}


def test_a_delivery_was_submitted_when_it_was_stored_for_its_id_holds_no_time() -> None:
    now = time.time()
    for number in range(100):
        assert submitted_at(delivery(event_id=str(number)).task_id(ENDPOINT), now) == now
    called = new_bundle_id(ENDPOINT)
    assert submitted_at(called, now + 5) == submitted_at(called) == pytest.approx(now, abs=60)


def test_ids_of_many_deliveries_do_not_meet() -> None:
    ids: set[UUID] = {delivery(event_id=str(number)).bundle_id(ENDPOINT) for number in range(20_000)}
    assert len(ids) == 20_000
    # Neither half would do alone.
    assert len({each.int >> 80 for each in ids}) > 19_900


def test_the_next_attempt_knows_the_failed_ones_but_not_their_longest_texts() -> None:
    second = DELIVERY.next(failure(1, message="m" * 10_000, traceback="begin" + "t" * 10_000 + "end"))
    third = second.next(failure(2))
    assert (third.attempt, [each.attempt for each in third.failed]) == (3, [1, 2])
    assert len(third.failed[0].message) < 5000
    assert third.failed[0].traceback.endswith("end")
    assert len(third.encode()) < 10_000
    assert DELIVERY.failed == []


@given(st.text(), st.text(), st.integers(1, 100), st.binary(max_size=50))
def test_a_delivery_comes_back_as_it_was_sent(source: str, event_id: str, attempt: int, event: bytes) -> None:
    sent = delivery(source=source, event_id=event_id, attempt=attempt, failed=[failure(message=source)])
    assert Delivery.decode(sent.encode()) == sent
    assert Waiting.decode(Waiting(sent, event).encode()) == Waiting(sent, event)


@given(st.binary(max_size=60))
def test_what_is_not_a_delivery_is_told(data: bytes) -> None:
    for kind in (Delivery, Waiting):
        with pytest.raises(DecodeError):
            kind.decode(data)


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RetryPolicy(), [1, 2, 4, 8]),
        (RetryPolicy(first_delay_s=10, factor=10, max_delay_s=500), [10, 100, 500, 500]),
        (RetryPolicy(first_delay_s=0.5, factor=1), [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_waits_grow_up_to_a_limit(policy: RetryPolicy, delays: list[float]) -> None:
    assert [policy.delay_s(failed) for failed in (1, 2, 3, 4)] == delays
    assert policy.delay_s(100_000) <= policy.max_delay_s


@given(
    st.lists(st.tuples(st.integers(1, 1 << 62), st.none() | st.sampled_from([uuid.UUID(int=1), uuid.UUID(int=2)]))),
    st.tuples(st.integers(1, 1 << 62), st.none() | st.just(uuid.UUID(int=1))),
)
def test_whoever_stands_for_a_batch_names_those_that_went_in_it_and_no_others(
    members: list[tuple[int, UUID | None]], other: tuple[int, UUID | None]
) -> None:
    deliveries = [delivery(sequence=sequence, replay=replay) for sequence, replay in members]
    origin = Delivery.decode(DELIVERY.standing_for(deliveries).encode())

    assert all(map(origin.stands_for, deliveries))
    assert origin.stands_for(delivery(sequence=other[0], replay=other[1])) == (other in members)
    assert not any(origin.stands_for(delivery(sequence=each[0], replay=each[1], bus="b")) for each in members)
    assert DELIVERY.decode(DELIVERY.encode()).batch == {}
