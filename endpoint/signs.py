"""When a manager gives its next sign of life: soon while something happens, rarely while nothing does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

Pools = Sequence[dict[str, Any]]
"""What the pools do, as the sign of life says it."""


class Signs:
    """`every_s` is how often it looks, and how often a sign is given while something happens."""

    def __init__(self, every_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._told: list[dict[str, Any]] | None = None
        self._due = 0.0

    def is_due(self, pools: Pools, *, is_heard: bool) -> bool:
        """Whether to give one now. `is_heard`: whether the service would notice at once that the manager is gone."""
        return not (is_heard and is_quiet(pools)) or _lasting(pools) != self._told or self._clock() >= self._due

    def given(self, pools: Pools, next_in_s: float | None) -> None:
        """One was given, and the service wants the next one so much later; None: it does not say."""
        self._told = _lasting(pools)
        self._due = self._clock() + max(self._every_s, next_in_s or 0.0)

    def failed(self) -> None:
        """One could not be given."""
        self._told = None


def is_quiet(pools: Pools) -> bool:
    """Whether nothing runs or waits in any of them."""
    return not any(pool.get("busy") or pool.get("queued") for pool in pools)


def _lasting(pools: Pools) -> list[dict[str, Any]]:
    # Memory is never twice the same.
    return [{name: value for name, value in pool.items() if name != "memory_bytes"} for pool in pools]
