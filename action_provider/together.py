"""Several things at once, without a task for a single one: a task costs more than much of what is done in it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """The results of all of it, in order, done at once. Raises the first error."""
    if len(work) == 1:
        return [await work[0]]
    return list(await asyncio.gather(*work))
