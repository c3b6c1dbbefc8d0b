"""Telling the service of cancellations: what piles up while one request is under way goes out in the next.

A thread of its own does it, as long as there is something to tell: requests take their time, the loop has none, and at
the end of the interpreter there is no other thread pool left to do it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from uuid import UUID

from headrace.schemas import HeadraceError
from headrace.sdk.errors import ServiceUnavailable, ServiceUnreachable

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 2_000


class Cancellations:
    """Cancellations of one group on their way to the service. Any thread.

    `tell(tasks, force)` asks the service; it may take its time and raise `HeadraceError`.
    """

    def __init__(self, tell: Callable[[list[UUID], bool], object], *, retry_s: float = 2.0) -> None:
        self._tell = tell
        self._retry_s = retry_s
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[tuple[UUID, bool]] = deque()
        self._thread: threading.Thread | None = None
        self._untold = 0
        self._closed = threading.Event()

    @property
    def untold(self) -> int:
        """How many cancellations the service does not know of yet."""
        return self._untold

    def expect(self) -> None:
        """There is one more to come, in a moment."""
        with self._changed:
            self._untold += 1

    def add(self, tasks: Iterable[tuple[UUID, bool]]) -> None:
        """Tell the service of these, which were expected; each with whether it is by force."""
        with self._changed:
            self._waiting.extend(tasks)
            if self._waiting and self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="headrace cancellations", daemon=True)
                self._thread.start()

    def wait(self, within_s: float) -> None:
        """Wait until the service knows of all of them, as long as it hears of some within each `within_s`; what it then
        does not know is logged."""
        with self._changed:
            while self._untold and not self._closed.is_set():
                if not self._changed.wait(within_s):
                    logger.warning(
                        "The service could not be told of %d cancellations: of none for %g s; those tasks will run.",
                        self._untold,
                        within_s,
                        extra={"action": "cancel_failed"},
                    )
                    return

    def close(self) -> None:
        """Tell of nothing more."""
        with self._changed:
            self._closed.set()
            self._waiting.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                tasks, force = self._next()
                if not tasks:
                    self._thread = None
                    return
            self._tell_all(tasks, force)
            with self._changed:
                self._untold -= len(tasks)
                self._changed.notify_all()

    def _next(self) -> tuple[list[UUID], bool]:
        tasks: list[UUID] = []
        force = bool(self._waiting) and self._waiting[0][1]
        while self._waiting and self._waiting[0][1] == force and len(tasks) < MOST_AT_ONCE:
            tasks.append(self._waiting.popleft()[0])
        return tasks, force

    def _tell_all(self, tasks: list[UUID], force: bool) -> None:
        while not self._closed.is_set():
            try:
                self._tell(tasks, force)
                return
            except (ServiceUnreachable, ServiceUnavailable):
                self._closed.wait(self._retry_s)
            except HeadraceError as error:
                logger.warning(
                    "%d tasks (%s …) could not be cancelled: %s",
                    len(tasks),
                    tasks[0],
                    error,
                    extra={"action": "cancel_failed"},
                )
                return
