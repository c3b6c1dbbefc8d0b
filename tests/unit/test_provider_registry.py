"""Which provider answers at an address, however it is written."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.action_provider.providers import PROVIDERS, ComputeProvider, ComputeV2Provider, FunctionProvider

FUNCTION = "6a0d7b0e-1111-4222-8333-444455556666"
slashes = st.integers(1, 3).map(lambda n: "/" * n)


@pytest.mark.parametrize(
    ("path", "kind", "address", "steps"),
    [
        ("/actions/compute", ComputeV2Provider, "/actions/compute", ()),
        ("/actions/compute/run", ComputeV2Provider, "/actions/compute", ("run",)),
        ("/actions/compute/v3", ComputeProvider, "/actions/compute/v3", ()),
        ("/actions/compute/v3/run", ComputeProvider, "/actions/compute/v3", ("run",)),
        ("/actions/compute/v4/run", ComputeV2Provider, "/actions/compute", ("v4", "run")),
        (f"/actions/functions/{FUNCTION}/run", FunctionProvider, f"/actions/functions/{FUNCTION}", ("run",)),
        (f"/actions/functions/{FUNCTION.upper()}", FunctionProvider, f"/actions/functions/{FUNCTION}", ()),
        (f"/actions/functions/{uuid.UUID(FUNCTION).hex}", FunctionProvider, f"/actions/functions/{FUNCTION}", ()),
    ],
)
def test_the_longest_address_answers(path: str, kind: type, address: str, steps: tuple[str, ...]) -> None:
    place = PROVIDERS.find(path)

    assert place is not None
    assert isinstance(place.provider, kind)
    assert (place.at.path, place.steps) == (address, steps)


@pytest.mark.parametrize(
    "path", ["/", "", "/actions", "/actions/other", "/actions/functions/mine", "/api/v1/actions/compute"]
)
def test_what_is_no_address_of_a_provider_is_somebody_elses(path: str) -> None:
    assert PROVIDERS.find(path) is None


@given(st.lists(slashes, min_size=5, max_size=5), st.sampled_from(["", "/", "//"]))
def test_slashes_may_be_doubled_anywhere(between: list[str], end: str) -> None:
    path = "".join(
        slash + step for slash, step in zip(between, ["actions", "compute", "v3", "x", "status"], strict=True)
    )

    assert PROVIDERS.find(path + end) == PROVIDERS.find("/actions/compute/v3/x/status")


@pytest.mark.parametrize(
    ("behind", "query", "steps"),
    [
        ("endpoint=E", {"endpoint": "E"}, ()),
        ("endpoint=E/run", {"endpoint": "E"}, ("run",)),
        ("endpoint=E//run/", {"endpoint": "E"}, ("run",)),
        ("endpoint=E/actions", {"endpoint": "E"}, ("actions",)),
        (
            "endpoint=E/tg_1/log&limit=5&reverse_order=True",
            {"endpoint": "E", "limit": "5", "reverse_order": "True"},
            ("tg_1", "log"),
        ),
        ("a=1&endpoint=E/run", {"a": "1", "endpoint": "E"}, ("run",)),
    ],
)
def test_an_operation_may_stand_behind_the_query(behind: str, query: dict[str, str], steps: tuple[str, ...]) -> None:
    place = PROVIDERS.find(f"/actions/functions/{FUNCTION}", behind)

    assert place is not None
    assert (dict(place.at.query), place.steps) == (query, steps)


def test_a_slash_in_the_query_of_an_operation_is_a_value() -> None:
    place = PROVIDERS.find("/actions/compute/v3/x/log", "marker=a/b")

    assert place is not None
    assert (place.steps, dict(place.at.query)) == (("x", "log"), {"marker": "a/b"})
