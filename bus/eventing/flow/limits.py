"""Limits: how many calls at once, how many in a second, and who goes first where several subscriptions share them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from headrace.bus.eventing.flow.policy import Rate

MOST_AT_ONCE: Final = 256
"""Calls of a subscription that are under way where its owner sets no limit: what is behind them waits in the store."""


class Limits:
    """Counts what runs and what has begun. Times are seconds of any clock that never goes back."""

    def __init__(self, concurrency: int | None, rate: Rate | None, *, now: float) -> None:
        self.concurrency = concurrency or MOST_AT_ONCE
        self.running = 0
        self._rate = rate
        # Empty: a holder that takes over does not know what its predecessor has begun in this second.
        self._tokens = 0.0
        self._at = now
        self._waiting: dict[object, tuple[int, Callable[[], None]]] = {}

    def may_begin(self, now: float, who: object = None, priority: int = 0) -> bool:
        """Whether one more may begin now, and nobody who waits goes first."""
        if self.running >= self.concurrency or self.wait_s(now) > 0:
            return False
        return not any(other > priority for name, (other, _) in self._waiting.items() if name is not who)

    def begin(self, now: float) -> None:
        """Count one that begins."""
        self.running += 1
        if self._rate is not None:
            self._fill(self._rate, now)
            self._tokens -= 1

    def adopt(self) -> None:
        """Count one that a predecessor has begun, whether there is room or not."""
        self.running += 1

    def end(self) -> None:
        """Count one that has ended."""
        self.running -= 1
        self.tell()

    def wait_s(self, now: float) -> float:
        """How long until the rate lets another one begin."""
        if self._rate is None:
            return 0.0
        self._fill(self._rate, now)
        # What rounding takes from a token must not make anybody wait for nothing again and again.
        missing = 1 - self._tokens
        return 0.0 if missing < 1e-9 else missing / self._rate.per_second

    def want(self, who: object, priority: int, wake: Callable[[], None]) -> None:
        """Somebody has something that waits for these limits, and is to be woken when that may have changed."""
        self._waiting[who] = (priority, wake)

    def want_nothing(self, who: object) -> None:
        """It has nothing more that waits."""
        if self._waiting.pop(who, None) is not None:
            self.tell()

    def tell(self) -> None:
        """Wake those who wait, the most important first."""
        for _, wake in sorted(self._waiting.values(), key=lambda each: -each[0]):
            wake()

    def _fill(self, rate: Rate, now: float) -> None:
        self._tokens = min(float(rate.burst), self._tokens + max(0.0, now - self._at) * rate.per_second)
        self._at = now if math.isfinite(now) else self._at
