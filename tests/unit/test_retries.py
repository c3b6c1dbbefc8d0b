"""Retry policies: what follows from a failure, and which endpoint a delivery goes to."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import EndpointNotAllowed, EndpointOffline, FilterInvalid, InputFailed
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.places import NO_ENDPOINT, EndpointChoice, compile_places
from headrace.bus.eventing.retries import Failed, RetryPolicy, Verdict, verdict

POLICY = RetryPolicy(permanent_errors=("KeyError", "lab.Broken"))


def failed(**more: Any) -> Failed:
    fields = {"attempt": 1, "counted": 1, "state": "failed", "code": "TaskFailed", "error": "ValueError"}
    return Failed(**{**fields, "message": "m", "published_at": 100.0, "ended_at": 110.0, **more})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("headrace.bus.errors.PermanentFailure", "PermanentFailure"),
        ("of_the_user.PermanentFailure", "PermanentFailure"),
        ("KeyError", "PermanentFailure"),
        ("lab.Broken", "PermanentFailure"),
        ("anything.KeyError", "PermanentFailure"),
        ("other.Broken", ""),
        ("ValueError", ""),
        ("NotAPermanentFailure", ""),
    ],
)
def test_permanent_errors_end_a_delivery_at_its_first_attempt(error: str, code: str) -> None:
    assert verdict(POLICY, failed(error=error)).code == code


@pytest.mark.parametrize("code", ["FunctionUnusable", "ArgumentNotSerialisable", "ResultNotSerialisable"])
def test_what_headrace_finds_unusable_is_not_tried_again_and_keeps_its_name(code: str) -> None:
    judged = verdict(POLICY, failed(code=code, error=f"headrace.bus.errors.{code}"))
    assert (judged.code, judged.reason) == (code, "m")


@pytest.mark.parametrize("code", ["TaskLost", "PoolFailed", "EnvironmentUnusable", "ObjectMissing", "TaskExpired"])
def test_what_may_get_better_is_tried_again(code: str) -> None:
    assert verdict(POLICY, failed(code=code)) == Verdict(delay_s=1.0)


def test_an_endpoint_that_was_away_leads_elsewhere_whatever_the_attempts() -> None:
    judged = verdict(RetryPolicy(max_attempts=1), failed(code=EndpointOffline.code, state="expired"))
    assert (judged.elsewhere, judged.code) == (True, "EndpointOffline")


def test_no_attempt_begins_when_the_event_is_too_old() -> None:
    policy = RetryPolicy(max_age_s=11.5, jitter=0)
    assert verdict(policy, failed()) == Verdict(delay_s=1.0)
    late = verdict(policy, failed(counted=2, attempt=2))
    assert late.code == "EventTooOld"
    assert "11.5 s" in late.reason
    assert "ValueError: m" in late.reason
    # Where nobody knows when it was published (it was given up before, and somebody wants it again) age does not count.
    assert verdict(policy, failed(counted=2, attempt=2, published_at=0.0)) == Verdict(delay_s=2.0)
    assert verdict(policy, failed(code="TaskExpired", state="expired", ended_at=111.5)).code == "EventTooOld"
    assert (policy.left_s(100.0, 110.0), policy.left_s(0.0, 110.0), RetryPolicy().left_s(1.0, 2.0)) == (1.5, None, None)


@given(st.text(max_size=5), st.integers(1, 30), st.floats(0, 1))
def test_the_jitter_of_an_attempt_is_the_same_for_every_dispatcher(event_id: str, attempt: int, jitter: float) -> None:
    delivery = Delivery(uuid.UUID(int=7), "default", 7, "/s", event_id, attempt=attempt)
    other = Delivery(uuid.UUID(int=7), "default", 99, "/s", event_id, attempt=attempt, published_at=5.0)
    assert 0 <= delivery.lot == other.lot < 1
    policy = RetryPolicy(jitter=jitter)
    plain_s, delay_s = RetryPolicy(jitter=0).delay_s(attempt), policy.delay_s(attempt, delivery.lot)
    assert plain_s <= delay_s <= plain_s * (1 + jitter)


def test_what_failed_together_does_not_come_again_together() -> None:
    lots = [Delivery(uuid.UUID(int=7), "default", 1, "/s", str(n)).lot for n in range(1000)]
    assert len(set(lots)) == 1000
    assert all(sum(n / 10 <= lot < (n + 1) / 10 for lot in lots) > 50 for n in range(10))


def event(**data: Any) -> CloudEvent:
    return CloudEvent.of_document({"id": "1", "source": "/s", "type": "t", "specversion": "1.0", "data": data})


def test_an_event_names_one_of_the_allowed_endpoints_and_no_other() -> None:
    here, there, spare = (uuid.UUID(int=n) for n in (1, 2, 3))
    choice = EndpointChoice(template="{{ event.data.site }}", allowed={"here": here, "there": there})
    places = compile_places(NO_ENDPOINT, choice, (spare,))
    assert (places.first(event(site="here")), places.first(event(site="there"))) == (here, there)
    for site in ("elsewhere", str(here), 1, None, ["here"]):
        with pytest.raises(EndpointNotAllowed, match="the allowed ones are here, there"):
            places.first(event(site=site))
    with pytest.raises(InputFailed):
        places.first(event())
    assert places.all() == {here, there, spare}
    assert compile_places(here, None).first(event(site="there")) is None
    with pytest.raises(FilterInvalid) as invalid:
        compile_places(NO_ENDPOINT, EndpointChoice(template="{{ event. }}", allowed={"a": here}))
    assert invalid.value.pointer == "/template"


def test_the_next_endpoint_is_each_of_the_list_once() -> None:
    first, second, third = (uuid.UUID(int=n) for n in (1, 2, 3))
    places = compile_places(first, None, (second, third))
    assert [places.after(each) for each in (first, second, third)] == [second, third, None]
    assert compile_places(first, None).after(first) is None
