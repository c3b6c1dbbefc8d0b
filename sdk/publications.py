"""Events that many threads publish one by one: what comes while requests are under way goes together in the next one.

A thread that publishes alone sends its event at once. Beyond a few requests under way threads wait in line; whoever is
the first in it when a request has ended takes the others along, in one batch. A batch that is refused, or fails, is
none: then each sends its own event, and gets its own answer or error. So nobody notices, but by the speed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from headrace.schemas import HeadraceError
from headrace.sdk.documents import Document
from headrace.sdk.forks import tell_after_fork

MOST_REQUESTS: Final = 4
"""Requests under way, beyond which events gather: more of them keep each other waiting."""
LEAST_TOGETHER: Final = 8
"""Fewer are not worth a batch."""
MOST_TOGETHER: Final = 200

Send = Callable[[list[dict[str, Any]]], list[Document]]
"""Sends events, one or a batch, and gives the answer of each. Raises `ClientError`."""


class _Waiting:
    """An event in the line. Its thread wakes up with the answer, or to send it, and `others` with it."""

    __slots__ = ("answer", "event", "others", "woken")

    def __init__(self, event: dict[str, Any]) -> None:
        self.event = event
        self.answer: Document | None = None
        self.others: list[_Waiting] = []
        self.woken = threading.Event()


class Publications:
    """The line before one bus. Safe from any thread."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._line: deque[_Waiting] = deque()
        self._under_way = 0
        self._batches = 0
        self._lock = threading.Lock()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: the threads that had something under way are not there."""
        self._line, self._under_way, self._batches, self._lock = deque(), 0, 0, threading.Lock()

    def publish(self, event: dict[str, Any]) -> Document:
        """Send an event, perhaps with others; gives its answer. Raises `ClientError`."""
        with self._lock:
            mine = None
            if self._has_room():
                self._under_way += 1
            else:
                mine = _Waiting(event)
                self._line.append(mine)
        if mine is not None:
            self._await_turn(mine)
            if mine.answer is not None:
                return mine.answer
        try:
            if mine is not None and mine.others:
                answer = self._together(mine)
                if answer is not None:
                    return answer
            return self._send([event])[0]
        finally:
            with self._lock:
                self._under_way -= 1
                self._pass_on()

    def _await_turn(self, mine: _Waiting) -> None:
        try:
            mine.woken.wait()
        except BaseException:  # Ctrl-C: the line goes on without this one
            with self._lock:
                if mine in self._line:
                    self._line.remove(mine)
                elif mine.woken.is_set() and mine.answer is None:
                    self._line.extendleft(reversed(mine.others))
                    self._batches -= bool(mine.others)
                    self._under_way -= 1
                    self._pass_on()
            raise

    def _together(self, mine: _Waiting) -> Document | None:
        """The answer, when all could be sent in one batch."""
        others, mine.others = mine.others, []
        try:
            answer, *answers = self._send([mine.event, *(each.event for each in others)])
        except BaseException as error:
            with self._lock:
                self._under_way += len(others)
                self._batches -= 1
            for each in others:
                each.woken.set()
            if isinstance(error, HeadraceError):
                return None
            raise
        with self._lock:
            self._batches -= 1
        for each, own in zip(others, answers, strict=True):
            each.answer = own
            each.woken.set()
        return answer

    def _has_room(self) -> bool:
        # While a batch is under way the next one grows.
        return self._under_way < MOST_REQUESTS and not self._batches

    def _pass_on(self) -> None:
        while self._line and self._has_room():
            first = self._line.popleft()
            if len(self._line) + 1 >= LEAST_TOGETHER:
                first.others = [self._line.popleft() for _ in range(min(len(self._line), MOST_TOGETHER - 1))]
                self._batches += 1
            self._under_way += 1
            first.woken.set()
