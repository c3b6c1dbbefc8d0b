"""What an answer means for a delivery: done, try again, or never.

From the CloudEvents webhook specification and RFC 9110: any 2xx is a success; 408, 425, 429 and 5xx are of this moment,
and Retry-After says of which; 410 is the end of the sink; redirects are not followed, and every other 4xx is said of
the request itself, which would be the same the next time.
"""

from __future__ import annotations

import datetime
import email.utils
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from headrace.bus.errors import SinkProblem
from headrace.bus.eventing.sinks.answers import Answer

MOST_RETRY_AFTER_S: Final = 86_400.0

OF_THIS_MOMENT: Final = frozenset({408, 425, 429})
"""The 4xx that are said of the moment, not of the request."""
PERMANENT: Final = frozenset(
    {"SinkRefused", "SinkRedirected", "SinkGone", "SinkForbidden", "SinkSecretLost", "SinkUnfit", "InternalError"}
)
"""The codes of failures that trying again does not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkVerdict:
    """How an attempt ended. `code` is empty for a success; `status` 0 where no answer came."""

    code: str = ""
    status: int = 0
    message: str = ""
    retry_after_s: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether the sink has taken it."""
        return not self.code

    @property
    def permanent(self) -> bool:
        """Whether trying again changes nothing."""
        return self.code in PERMANENT


def of_answer(answer: Answer, *, now: float) -> SinkVerdict:
    """The verdict of an answer; `now` is unix seconds."""
    status = answer.status
    if 200 <= status < 300:
        return SinkVerdict(status=status)
    message = _message(answer)
    if status >= 500 or status in OF_THIS_MOMENT:
        after_s = retry_after_s(answer.headers.get("retry-after", ""), now=now)
        return SinkVerdict(code="SinkUnavailable", status=status, message=message, retry_after_s=after_s)
    if status == HTTPStatus.GONE:
        return SinkVerdict(code="SinkGone", status=status, message=message)
    return SinkVerdict(code="SinkRedirected" if 300 <= status < 400 else "SinkRefused", status=status, message=message)


def of_problem(problem: SinkProblem) -> SinkVerdict:
    """The verdict where no answer came."""
    return SinkVerdict(code=problem.kind, message=str(problem))


def retry_after_s(text: str, *, now: float) -> float:
    """The seconds that a Retry-After says, a day at most; 0 for what is none."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MOST_RETRY_AFTER_S)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return 0.0
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return min(max(0.0, at.timestamp() - now), MOST_RETRY_AFTER_S)


def _message(answer: Answer) -> str:
    try:
        phrase = f" {HTTPStatus(answer.status).phrase}"
    except ValueError:
        phrase = ""
    redirected = " (redirects are not followed)" if 300 <= answer.status < 400 else ""
    return f"HTTP {answer.status}{phrase}{redirected}{': ' if answer.excerpt else ''}{answer.excerpt}"
