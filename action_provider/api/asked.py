"""Query parameters read: ids, numbers and moments."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID

from headrace.action_provider.errors import refused
from headrace.action_provider.http import Call
from headrace.bus.durations import parse_duration


def identifier(call: Call, name: str) -> UUID | None:
    """A UUID. Raises `InvalidRequest`."""
    given = call.query(name)
    if given is None:
        return None
    try:
        return UUID(given)
    except ValueError:
        raise refused(f"?{name}", f"{given[:80]!r} is not a UUID") from None


def number(call: Call, name: str, *, default: int, least: int = 1, most: int) -> int:
    """A whole number. Raises `InvalidRequest`."""
    given = call.query(name)
    if given is None:
        return default
    if not given.isascii() or not given.isdecimal() or len(given) > 18 or not least <= int(given) <= most:
        raise refused(f"?{name}", f"{given[:40]!r} is not a number from {least} to {most}")
    return int(given)


def truth(call: Call, name: str, *, default: bool = False) -> bool:
    """Whether something is wanted. Raises `InvalidRequest`."""
    given = call.query(name)
    if given not in (None, "true", "false"):
        raise refused(f"?{name}", f"{str(given)[:40]!r} is neither true nor false")
    return default if given is None else given == "true"


def moment(call: Call, name: str) -> datetime | None:
    """A time, or how long ago it was. Raises `InvalidRequest`."""
    given = call.query(name)
    # A plus sign in a query is a space.
    return None if given is None else moment_of(given.replace(" ", "+"), f"?{name}")


def moment_of(given: str, pointer: str) -> datetime:
    """A time as RFC 3339 has it, or how long ago it was (`90s`, `15m`, `12h`, `7d`). Raises `InvalidRequest`."""
    try:
        return datetime.fromtimestamp(max(0.0, time.time() - parse_duration(given)), UTC)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(given)
        found.timestamp()
        if found.tzinfo is not None:
            return found.astimezone(UTC)
        problem = f"{given[:40]!r} has no time zone; write Z or an offset behind it"
    except (ValueError, OverflowError):
        problem = f"{given[:40]!r} is neither a time (2026-02-28T12:00:00Z) nor how long ago (90s, 15m, 12h, 7d)"
    raise refused(pointer, problem)
