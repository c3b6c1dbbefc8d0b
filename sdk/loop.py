"""The event loop behind the synchronous face: one daemon thread per process, started when it is first needed.

All executors of a process share it, so that thousands of them cost one thread. After a fork the child starts its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from headrace.bus.spare_memory import keep_for_messages

T = TypeVar("T")


class LoopThread:
    """A running event loop in a daemon thread."""

    def __init__(self) -> None:
        keep_for_messages()
        self.loop = _new_event_loop()
        self._thread = threading.Thread(target=self._run, name="headrace", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T], *, timeout_s: float | None = None) -> T:
        """Run a coroutine on the loop and wait for it. Raises what it raises, `TimeoutError` when the time is over."""
        if self.is_current:
            work.close()
            raise RuntimeError("this call waits for the thread it was made in: use it outside of a future's callback")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    @property
    def is_current(self) -> bool:
        """Whether this code runs on the loop's thread."""
        return threading.current_thread() is self._thread

    def call(self, callback: Callable[[], object]) -> None:
        """Have the loop call `callback` soon; does not wait."""
        self.loop.call_soon_threadsafe(callback)


_lock = threading.Lock()
_shared: LoopThread | None = None


def loop_thread() -> LoopThread:
    """This process's loop thread."""
    global _shared  # noqa: PLW0603 - one thread per process is the point
    with _lock:
        if _shared is None:
            _shared = LoopThread()
        return _shared


def on_loop_thread() -> bool:
    """Whether this code runs on this process's loop thread, as callbacks of futures do."""
    return _shared is not None and _shared.is_current


def _forget_after_fork() -> None:
    # The child has the loop's memory but not its thread: it makes a new one when it needs one.
    global _shared, _lock  # noqa: PLW0603 - likewise
    _shared = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
