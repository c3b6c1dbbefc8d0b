"""Moments in time, as RFC 3339 has them: `2026-05-01T12:00:00Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_FORM: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})")


def moment(text: object) -> datetime | None:
    """The moment that a text means, or None when it is no timestamp."""
    if not isinstance(text, str) or not _FORM.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as a timestamp in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()
