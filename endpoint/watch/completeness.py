"""When a file is complete: a state machine that is told what is seen, and what time it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from headrace.endpoint.watch.rules import How

UNKNOWN_STABLE_S: Final = 10.0
"""How long a file must stand still at least where `closed` is wanted and nobody can say whether it is open."""

_SOONEST_S: Final = 0.1
_LATEST_S: Final = 2.0
_PART_OF_AGE: Final = 0.1


class Seen(NamedTuple):
    """What tells one version of a file from the next."""

    size: int
    mtime_ns: int
    inode: int
    """0 where the file system has no lasting ones."""


class Candidate:
    """A file that may still be written. Times are of a monotonic clock."""

    __slots__ = ("_began", "_since", "due", "seen")

    def __init__(self, seen: Seen, now: float) -> None:
        self.seen = seen
        self.due = now
        self._began = now
        self._since = now

    def observe(self, seen: Seen, now: float) -> bool:
        """The file as it is now; whether it has changed."""
        if seen == self.seen:
            return False
        self.seen = seen
        self._since = now
        return True

    def wait_s(self, how: How, stable_s: float, now: float, is_written: Callable[[], bool | None]) -> float:
        """How long to wait before the next look; 0 when the file is complete.

        `is_written` says whether somebody has it open for writing, or None where nobody can say; it is asked only
        when the rest is as it must be.
        """
        if how in ("renamed", "marker"):
            return 0.0
        quiet_s = now - self._since
        if quiet_s < stable_s:
            return stable_s - quiet_s
        if how == "stable":
            return 0.0
        written = is_written()
        if written is None:
            return max(0.0, UNKNOWN_STABLE_S - quiet_s)
        # Nobody tells of the end of a long writing: the longer it has lasted, the less a moment more matters.
        return min(_LATEST_S, max(_SOONEST_S, (now - self._began) * _PART_OF_AGE)) if written else 0.0
