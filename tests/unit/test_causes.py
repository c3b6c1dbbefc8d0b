"""What led to an event: the attributes that say it, and the end of circles."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import LoopDetected
from headrace.bus.eventing.causes import MOST_DEPTH, chain_of, check_chain, consequence
from headrace.bus.eventing.events import CloudEvent


def event(**attributes: Any) -> CloudEvent:
    return CloudEvent.of_document({"id": "1", "source": "/s", "type": "t", "specversion": "1.0", **attributes})


@given(st.integers(0, MOST_DEPTH + 3))
def test_a_chain_grows_by_each_subscription_and_ends_when_it_is_deep(length: int) -> None:
    ids = [uuid.UUID(int=n + 1) for n in range(length)]
    current = event()
    for place, each in enumerate(ids):
        if place >= MOST_DEPTH:
            with pytest.raises(LoopDetected, match="one after another"):
                check_chain(current, each)
            return
        check_chain(current, each)
        current = event(id=str(place + 2), **consequence(current, current.id, each))
        assert chain_of(current) == tuple(link.hex for link in ids[: place + 1])
        assert (current.attributes["causationid"], current.attributes["correlationid"]) == (str(place + 1), "1")


def test_a_subscription_that_has_led_to_an_event_does_not_get_it() -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    there = event(id="2", **consequence(event(), "1", first))
    back = event(id="3", **consequence(there, "2", second))
    check_chain(back, uuid.uuid4())
    with pytest.raises(LoopDetected, match=f"{first} → {second} → {first}"):
        check_chain(back, first)


def test_what_a_publisher_says_of_its_story_is_kept_and_nonsense_counts_for_nothing() -> None:
    assert consequence(event(correlationid="order-7"), "1", uuid.uuid4())["correlationid"] == "order-7"
    assert consequence(None, "9", uuid.uuid4())["correlationid"] == "9"
    for nonsense in ("x", ".", "G" * 32, 7, True):
        assert chain_of(event(headracechain=nonsense)) == ()
