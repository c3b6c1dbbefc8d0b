"""When a subscription begins and when it ends, as it is written and as it is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class StartPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A start in the past: the first event is the one behind the sequence `after`. `asked` is how it was written."""

    after: int
    asked: Any


def as_written(start: StartPosition | None) -> Any:
    """How a subscription says where it starts."""
    return "now" if start is None else start.asked


def moment(text: str) -> datetime:
    """A time with its offset. Raises `ValueError`, which says what is wrong."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:64]!r} is not a time such as 2026-03-01T00:00:00Z") from None
    if found.tzinfo is None:
        raise ValueError(f"{text[:64]!r} has no time zone; write Z or an offset behind it")
    return found
