"""Calls inside a grid's engine, and what is known of how long their functions take."""

from __future__ import annotations

import asyncio
from typing import Final

from headrace.endpoint.engines.engine import Call
from headrace.endpoint.engines.grids.heard import Heard

SHORT_S: Final = 0.02
"""A call that takes longer goes only to a place that is free."""
TINY_S: Final = 0.002
"""A call that takes longer goes alone."""

_QUICK_CALLS = 50
_MOST_QUICK_CALLS = 5_000


class Habit:
    """How long a function's calls take, as far as that is known.

    Calls that go together are told of together, so one that takes its time keeps the results of the others: a function
    must have been quick for a while before its calls do, and ten times as long each time that it was slow after all.
    """

    __slots__ = ("_needed", "_quick", "estimate_s")

    def __init__(self) -> None:
        self.estimate_s: float | None = None
        self._quick = 0
        self._needed = _QUICK_CALLS

    def note(self, duration_s: float) -> None:
        """Learn from a call: a slow one counts at once, quick ones bring the estimate down little by little."""
        known = self.estimate_s
        if known is None or duration_s > known:
            self.estimate_s = duration_s
        else:
            self.estimate_s = known + 0.2 * (duration_s - known)
        if duration_s <= SHORT_S:
            self._quick += 1
        else:
            self._quick = 0
            self._needed = min(_MOST_QUICK_CALLS, 10 * self._needed)

    @property
    def is_short(self) -> bool:
        """Whether the next call very likely takes little time."""
        return self.estimate_s is not None and self.estimate_s <= SHORT_S

    @property
    def is_tiny(self) -> bool:
        """Whether calls may go together."""
        return self.estimate_s is not None and self.estimate_s <= TINY_S and self._quick >= self._needed


class Parcel:
    """Calls that went to a place together."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left
        """How many of them have not ended."""


class Errand:
    """A call inside the engine."""

    __slots__ = ("call", "force", "function", "heard", "is_short", "losses", "parcel", "raised", "started_at", "timer")

    def __init__(self, call: Call, function: Habit) -> None:
        self.call = call
        self.function = function
        self.losses = 0
        self.raised = 0
        self.started_at = 0.0
        self.force = False
        self.heard: Heard | None = None
        """What it has printed, once it was told of while it ran."""
        self.is_short = False
        """Whether it was taken for short when it started."""
        self.parcel: Parcel | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def tries(self) -> int:
        """How often it has been started and has to start again."""
        return self.losses + self.raised

    def looks_short(self) -> bool:
        """Whether it may be given away before there is a place for it."""
        return self.function.is_short and self._is_harmless()

    def looks_tiny(self) -> bool:
        """Whether it may go together with others."""
        return self.function.is_tiny and self._is_harmless() and self.call.options.task_timeout_s is None

    def _is_harmless(self) -> bool:
        return self.call.options.rerun_on_loss and not self.losses
