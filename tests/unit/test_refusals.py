"""What refusals of the service say to people."""

from __future__ import annotations

import pytest

from headrace.schemas import Violation
from headrace.sdk.errors import RequestRefused


@pytest.mark.parametrize(
    ("detail", "problem", "pointer", "said"),
    [
        (
            "'x' is no cron line",
            "'x' is no cron line",
            "/cron",
            "/cron: 'x' is no cron line (InvalidRequest, HTTP 422)",
        ),
        ("limit: '0' is none", "'0' is none", "?limit", "?limit: '0' is none (InvalidRequest, HTTP 422)"),
        (
            "filter: no operator",
            "filter: no operator",
            "/filter/a",
            "/filter/a: no operator (InvalidRequest, HTTP 422)",
        ),
        ("see `errors`", "is missing", "", "see `errors` (InvalidRequest, HTTP 422)\n  /: is missing"),
    ],
)
def test_what_one_error_says_is_said_once(detail: str, problem: str, pointer: str, said: str) -> None:
    violation = Violation(pointer=pointer, problem=problem)
    assert str(RequestRefused(422, "InvalidRequest", detail, (violation,))) == said
