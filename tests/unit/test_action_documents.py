"""Strict out: whatever an action or a provider is, what is said of it satisfies the published schemas."""

from __future__ import annotations

from pathlib import Path

import pytest
from described import check_document
from globus_sdk import gare
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.action_provider.errors import ConsentRequired, ServiceError
from headrace.action_provider.provider_access import Access
from headrace.action_provider.providers.documents import description_document, error_response, status_document
from headrace.action_provider.providers.lives import inactive
from headrace.action_provider.providers.logs import log_page
from headrace.action_provider.providers.provider import Description
from headrace.action_provider.settings import ServiceSettings
from headrace.bus.store.actions import ActionRecord, ActionState

SETTINGS = ServiceSettings(home=Path("/h"), keys_dir=Path("/k"), nats_url="nats://127.0.0.1:4222")
times = st.floats(0, 4e9)
urns = st.builds("urn:globus:{}:{}".format, st.sampled_from(["auth:identity", "groups:id"]), st.uuids())
details = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5), max_size=4
)


@st.composite
def records(draw: st.DrawFn, *states: ActionState) -> ActionRecord:
    """Actions as they may be stored; those that have failed say why."""
    status = draw(st.sampled_from(states))
    said = draw(details)
    started_at = draw(times)
    return ActionRecord(
        action_id=f"tg_{draw(st.uuids())}",
        provider="/p",
        creator=draw(urns),
        request_id="r",
        request_digest="d",
        started_at=started_at,
        label=draw(st.none() | st.text(min_size=1, max_size=64)),
        monitor_by=tuple(draw(st.lists(urns, unique=True, max_size=3))),
        manage_by=tuple(draw(st.lists(urns, unique=True, max_size=3))),
        status=status,
        display_status=draw(st.text(max_size=200)),
        details={**said, "code": "C", "description": "d"} if status == "FAILED" else draw(st.just(said) | st.none()),
        ended_at=None if status == "ACTIVE" else started_at + draw(st.floats(0, 1e6)),
    )


@settings(max_examples=60)
@given(records("ACTIVE", "SUCCEEDED", "FAILED"))
def test_every_action_has_a_valid_status(record: ActionRecord) -> None:
    assert check_document(status_document(record)) == "action-status"


@settings(max_examples=25)
@given(records("ACTIVE"), st.text(), st.text(min_size=1))
def test_every_action_that_lacks_a_consent_says_so_to_the_sdk(record: ActionRecord, text: str, scope: str) -> None:
    needed = ConsentRequired(text, required_scope=scope)

    document = status_document(inactive(record, needed, None))

    assert check_document(document) == "action-status"
    found = gare.to_gare(document["details"])
    assert found is not None
    assert found.authorization_parameters.required_scopes == [scope]


@given(
    title=st.text(min_size=1, max_size=300),
    subtitle=st.text(max_size=300),
    description=st.text(max_size=9000),
    keywords=st.lists(st.text(max_size=400), max_size=20),
    visible_to=st.lists(urns | st.sampled_from(["public", "all_authenticated_users"]), max_size=3),
)
def test_every_provider_has_a_valid_description(
    title: str, subtitle: str, description: str, keywords: list[str], visible_to: list[str]
) -> None:
    said = Description(
        title=title, input_schema={}, subtitle=subtitle, description=description, keywords=tuple(keywords)
    )

    document = description_document(said, Access(visible_to=tuple(visible_to)), SETTINGS)

    assert check_document(document) == "provider-description"
    assert sum(map(len, document.get("keywords", []))) <= 1024


@pytest.mark.parametrize("kind", ServiceError.__subclasses__())
def test_every_error_has_its_shape(kind: type[ServiceError]) -> None:
    response = error_response(kind("it is so"), route="/p")

    assert response.status_code == kind.status
    assert b'"description":"it is so"' in response.body


entries = st.integers(0, 60).map(
    lambda n: [{"time": "2026-01-01T00:00:00+00:00", "code": "ActionStarted", "description": str(i)} for i in range(n)]
)


@given(entries, st.integers(1, 120), st.booleans(), st.integers(0, 5), st.sampled_from(["marker", "pagination_token"]))
def test_pages_of_a_log_leave_nothing_out_though_it_grows(
    log: list[dict[str, str]], limit: int, reverse: bool, growth: int, marker: str
) -> None:
    order = {"reverse_order": "True"} if reverse else {}
    page = log_page(log, {"limit": str(limit), **order})
    read = list(page["entries"])
    grown = list(log)
    while page["has_next_page"]:
        # Something happens while somebody turns the page.
        grown += [{**log[0], "description": "new"}] * growth
        page = log_page(grown if reverse else log, {"limit": str(limit), **order, marker: page["marker"]})
        assert check_document(page) == "action-log"
        read += page["entries"]

    assert read == (log[::-1] if reverse else log)
