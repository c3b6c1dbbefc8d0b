"""The event loop of a place: on a thread of its own, or on that of whoever runs calls there, while calls run."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import uvloop

T = TypeVar("T")


class PlaceLoop(Protocol):
    """Runs what is asynchronous for callers that are not."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end."""

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have it called in the loop, soon."""

    def close(self) -> None:
        """Run nothing more."""


class LoopThread:
    """A thread that always runs. Any thread may call."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="headrace-host", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run_loop(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_forever()


class LoopHere:
    """The caller's own thread, which is always the same: no call waits until another thread is awake, which takes
    longer than a short call. What happens in between is seen with the next one."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = self._loop.run_until_complete(work)
        return result

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon(function, *arguments)

    def close(self) -> None:
        self._loop.close()
