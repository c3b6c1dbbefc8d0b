"""Several calls in one task, for `Executor.map` with a chunk size. Its own module: workers import it by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def run_chunk(fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The results of `fn` for each tuple of arguments."""
    return [fn(*call) for call in calls]
