"""What `headrace doctor` finds: one finding for each thing it looked at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was looked at, how it is, and what to do. A warning keeps nothing from working; a problem does."""

    check: str
    state: State
    said: str
    advice: str = ""
    endpoint: str | None = None
    """The endpoint, where it is about one."""

    def document(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return dataclasses.asdict(self)


def ok(check: str, said: str, *, endpoint: str | None = None) -> Finding:
    """All is well."""
    return Finding(check=check, state="ok", said=said, endpoint=endpoint)


def warning(check: str, said: str, advice: str, *, endpoint: str | None = None) -> Finding:
    """It works, but not for long, or not as it should."""
    return Finding(check=check, state="warning", said=said, advice=advice, endpoint=endpoint)


def problem(check: str, said: str, advice: str, *, endpoint: str | None = None) -> Finding:
    """It does not work."""
    return Finding(check=check, state="problem", said=said, advice=advice, endpoint=endpoint)


def skipped(check: str, said: str, *, endpoint: str | None = None) -> Finding:
    """It could not be looked at, or there is nothing to look at."""
    return Finding(check=check, state="skipped", said=said, endpoint=endpoint)
