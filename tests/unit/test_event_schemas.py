"""What a bus says of the data of its events: refused, or marked and otherwise left alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import EventUnfit
from headrace.bus.eventing.buses import MARK, BusRecord, EventSchema, Policy
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.publishing import _checked

NUMBERS = {"type": "array", "items": {"type": "integer"}}


def bus(policy: Policy) -> BusRecord:
    schemas = {"t": EventSchema(schema=NUMBERS, policy=policy)}
    return BusRecord(name="lab", owner="urn:headrace:user:ada", created_at=0.0, schemas=schemas)


def event(data: Any, kind: str = "t") -> CloudEvent:
    return CloudEvent.of_document({"specversion": "1.0", "id": "1", "source": "/s", "type": kind, "data": data})


def checked(policy: Policy, *events: CloudEvent) -> list[tuple[CloudEvent, str]]:
    return asyncio.run(_checked(bus(policy), events))


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5), st.integers(1, 7))
def test_a_mark_is_added_where_the_data_does_not_fit_and_nothing_else_is_changed(data: Any, count: int) -> None:
    fits = isinstance(data, list) and all(isinstance(each, int) for each in data)
    for stored, problem in checked("mark", *[event(data)] * count, event(data, "other"))[:-1]:
        document = dict(stored.document)
        assert bool(problem) == (not fits) == (MARK in document)
        assert document.pop(MARK, "") == problem
        assert document == event(data).document
        # What is stored is an event again: what the mark quotes holds nothing that an attribute may not.
        CloudEvent.of_document(dict(stored.document))


def test_a_refusal_names_every_place_of_a_batch() -> None:
    with pytest.raises(EventUnfit) as refused:
        checked("reject", event([1]), event(["x", 2]), event({}), event("x", "other"))
    assert [each.pointer for each in refused.value.violations] == ["/1/data/0", "/2/data"]
    with pytest.raises(EventUnfit) as refused:
        checked("reject", event("x"))
    assert [each.pointer for each in refused.value.violations] == ["/data"]


def test_large_data_is_checked_to_its_end() -> None:
    assert checked("reject", event([1] * 3_000))[0][1] == ""
    with pytest.raises(EventUnfit):
        checked("reject", event([*[1] * 3_000, "x"]))
