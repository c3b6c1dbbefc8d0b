"""What was found out elsewhere, believed for a while."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Found(NamedTuple, Generic[T]):
    """Something that was found out, and for how many seconds it may be believed."""

    value: T
    for_s: float


class Cache(Generic[T]):
    """At most `size` things by their keys; the one that was used least recently goes first.

    Whoever asks for something while somebody is finding it out waits for that: fifty at once are one question. Errors
    are not kept. `close` ends what is being found out.
    """

    def __init__(self, *, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._known: OrderedDict[str, tuple[T, float]] = OrderedDict()
        self._finding: dict[str, asyncio.Task[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._known)

    def peek(self, key: str) -> T | None:
        """What is known, without asking anybody."""
        known = self._known.get(key)
        if known is None:
            return None
        value, until = known
        if until <= time.monotonic():
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return value

    async def get(self, key: str, find: Callable[[], Awaitable[Found[T]]]) -> T:
        """What is known, or what `find` finds. Raises what `find` does."""
        known = self.peek(key)
        if known is not None:
            return known
        finding = self._finding.get(key)
        if finding is None:
            finding = asyncio.get_running_loop().create_task(self._find(key, find), name=f"{self._name} is looked up")
            self._finding[key] = finding
            self._tasks.add(finding)
            finding.add_done_callback(self._ended)
        # Others may wait for the same: that we are cancelled is no reason to stop.
        return await asyncio.shield(finding)

    def keep(self, key: str, found: Found[T]) -> None:
        """Believe this from now on."""
        self._known[key] = (found.value, time.monotonic() + found.for_s)
        self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)

    def forget(self, key: str) -> None:
        """Find this out anew; what is being found out at this moment does not count either."""
        self._known.pop(key, None)
        self._finding.pop(key, None)

    def clear(self) -> None:
        """Find everything out anew."""
        self._known.clear()
        self._finding.clear()

    async def close(self) -> None:
        """End what is being found out."""
        under_way = list(self._tasks)
        for each in under_way:
            each.cancel()
        for each in under_way:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each

    async def _find(self, key: str, find: Callable[[], Awaitable[Found[T]]]) -> T:
        me = asyncio.current_task()
        try:
            found = await find()
            if found.for_s > 0 and self._finding.get(key) is me:
                self.keep(key, found)
            return found.value
        finally:
            if self._finding.get(key) is me:
                del self._finding[key]

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may have gone: it is nobody's then, and no news


def key_of(bearer: str) -> str:
    """A token as the key of a cache: nobody who sees the key has the token."""
    return hashlib.sha256(bearer.encode()).hexdigest()
