"""How many tasks a pool likes to have in hand."""

from __future__ import annotations

_WANTED_WORK_S = 0.5
_MOST_TASKS_IN_HAND = 20_000


class Pace:
    """Knows how long tasks take, on the average of late."""

    def __init__(self) -> None:
        self._mean_s: float | None = None

    def learn(self, worked_s: float, tasks: int) -> None:
        """So many tasks took so long altogether."""
        mean_s = worked_s / tasks
        self._mean_s = mean_s if self._mean_s is None else 0.7 * self._mean_s + 0.3 * mean_s

    def wanted(self, workers: int) -> int:
        """Enough tasks to keep the workers busy for a while, and no more than that, so that other pools of this
        endpoint get theirs."""
        workers = max(1, workers)
        if self._mean_s is None:
            return 4 * workers + 16
        return max(2 * workers, min(_MOST_TASKS_IN_HAND, int(workers * _WANTED_WORK_S / max(self._mean_s, 1e-6))))
