"""A `concurrent.futures.Future` that needs a tenth of the memory of the standard one, as long as nobody waits for it.

Who submits a million tasks holds a million futures. The standard one makes a condition, a lock and three containers for
itself (1.8 KB); this one makes them when they are needed, and all futures share one lock. What is done under that lock
takes microseconds, callbacks are called without it, and whoever waits lets go of it.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any

logger = logging.getLogger(__name__)

LOCK = threading.RLock()
"""Re-entrant: `concurrent.futures.wait` holds the conditions of many futures at once."""

_ENDED = (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED)


class LightFuture(concurrent.futures.Future[Any]):
    """Behaves as its base class does, and works with `wait`, `as_completed` and `asyncio.wrap_future`."""

    # The names that the base class and `wait` know; those with `made` exist once somebody asks for them.
    __slots__ = ("_exception", "_made_callbacks", "_made_condition", "_made_waiters", "_result", "_state")

    def __init__(self) -> None:  # the base class would make what this one is there to avoid
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._made_condition: threading.Condition | None = None
        self._made_waiters: list[Any] | None = None
        self._made_callbacks: list[Callable[[Any], object]] | None = None

    def _make_condition(self) -> threading.Condition:
        condition = self._made_condition
        if condition is None:
            with LOCK:
                condition = self._made_condition
                if condition is None:
                    condition = self._made_condition = threading.Condition(LOCK)
        return condition

    def _make_waiters(self) -> list[Any]:
        with LOCK:
            if self._made_waiters is None:
                self._made_waiters = []
            return self._made_waiters

    if not TYPE_CHECKING:  # attributes of the base class, as `concurrent.futures.wait` and its like read them
        _condition = property(_make_condition)
        _waiters = property(_make_waiters)

    def done(self) -> bool:
        """Whether it has ended, or was cancelled."""
        return self._state in _ENDED

    def running(self) -> bool:
        """Whether the task is known to run."""
        return self._state == RUNNING

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> Any:
        """The value. Raises what the task raised, `CancelledError`, and `TimeoutError` after so many seconds."""
        if self._state == FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, or None. Raises `CancelledError`, and `TimeoutError` after so many seconds."""
        if self._state == FINISHED:
            return self._exception
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(future)` when it ends; at once, if it has."""
        with LOCK:
            if self._state not in _ENDED:
                if self._made_callbacks is None:
                    self._made_callbacks = []
                self._made_callbacks.append(fn)
                return
        self._call(fn)

    def cancel(self) -> bool:
        """Cancel it, unless it runs or has ended; whether it is cancelled."""
        with LOCK:
            if self._state in (RUNNING, FINISHED):
                return False
            if self.cancelled():
                return True
            self._state = CANCELLED
            self._notify()
        self._invoke_callbacks()
        return True

    def set_running_or_notify_cancel(self) -> bool:
        """Note that the task runs, or tell those who wait of the cancellation; whether it runs."""
        with LOCK:
            if self._state == PENDING:
                self._state = RUNNING
                return True
            if self._state != CANCELLED:
                raise RuntimeError(f"a future in state {self._state} cannot begin to run")
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._made_waiters or ():
                waiter.add_cancelled(self)
            return False

    def set_result(self, result: Any) -> None:
        """End it with a value."""
        with LOCK:
            self._check_not_ended()
            self._result, self._state = result, FINISHED
            for waiter in self._made_waiters or ():
                waiter.add_result(self)
            self._notify()
        self._invoke_callbacks()

    def set_exception(self, exception: BaseException | None) -> None:
        """End it with an error."""
        with LOCK:
            self._check_not_ended()
            self._exception, self._state = exception, FINISHED
            for waiter in self._made_waiters or ():
                waiter.add_exception(self)
            self._notify()
        self._invoke_callbacks()

    def _check_not_ended(self) -> None:
        if self._state in _ENDED:
            raise concurrent.futures.InvalidStateError(f"{self._state}: {self!r}")

    def _notify(self) -> None:
        if self._made_condition is not None:
            self._made_condition.notify_all()

    def _invoke_callbacks(self) -> None:
        callbacks, self._made_callbacks = self._made_callbacks, None
        for callback in callbacks or ():
            self._call(callback)

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except Exception:
            logger.exception("a callback of %r raised", self)


if hasattr(os, "register_at_fork"):
    # Held by another thread in the moment of a fork, it would stay held in the child for ever.
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)
