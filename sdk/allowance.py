"""How many bundles the service lets this principal have unfinished at an endpoint, as far as this client knows.

The service says so with each session, and whenever it is asked; in between the client counts by itself. It is no gate
that holds to the bundle: others of the same principal submit as well, and whoever is far above is stopped elsewhere.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.schemas import HeadraceError
from headrace.sdk.errors import QueueFull
from headrace.sdk.limits import WhenFull
from headrace.sdk.loop import on_loop_thread

logger = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimit:
    """What the service says of a queue. `bundles`, `room`: None is no limit."""

    bundles: int | None = None
    used: int = 0
    room: int | None = None
    may_submit: bool = True

    @classmethod
    def of_document(cls, document: Mapping[str, Any] | None) -> QueueLimit:
        """Read `queue_limit` of a session, or `own` of a queue. A service that says nothing has no limit."""
        given = document or {}
        return cls(
            bundles=given.get("bundles"),
            used=int(given.get("used", 0)),
            room=given.get("room"),
            may_submit=bool(given.get("may_submit", True)),
        )


NO_LIMIT = QueueLimit()


class Allowance:
    """Counts the bundles of one session against the limit. Any thread; `ask` is called where somebody waits."""

    def __init__(
        self,
        endpoint: UUID,
        limit: QueueLimit,
        ask: Callable[[], QueueLimit],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._ask = ask
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._limit = limit
        self._room = limit.room
        self._not_stored = 0
        self._asked_at = clock()

    @property
    def is_free(self) -> bool:
        """Whether one more bundle may be begun."""
        return self._room is None or self._room > 0

    def learn(self, limit: QueueLimit) -> None:
        """Take what the service says now."""
        with self._changed:
            self._limit = limit
            # What is on its way is not in the service's figure.
            self._room = None if limit.room is None else limit.room - self._not_stored
            self._asked_at = self._clock()
            self._changed.notify_all()

    def begun(self) -> None:
        """There is one bundle more."""
        with self._changed:
            self._not_stored += 1
            if self._room is not None:
                self._room -= 1

    def stored(self) -> None:
        """A bundle that was begun is stored, or given up."""
        with self._changed:
            self._not_stored -= 1

    def ended(self) -> None:
        """A bundle has all its results, or was never stored."""
        with self._changed:
            if self._room is not None:
                self._room += 1
                self._changed.notify_all()

    def wake(self) -> None:
        """Have everybody who waits look again."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, when_full: WhenFull, check: Callable[[], None]) -> None:
        """Wait until there is room, as `Room.take` does. Raises `QueueFull`, and what `check` raises."""
        if on_loop_thread() and not when_full.raises:
            return
        end = None if when_full.timeout_s is None else self._clock() + when_full.timeout_s
        while not self.is_free:
            if not on_loop_thread():
                self._ask_again()
            if self.is_free:
                return
            left_s = _ASK_AGAIN_S if end is None else min(_ASK_AGAIN_S, end - self._clock())
            if when_full.raises or left_s <= 0:
                raise self._error()
            with self._changed:
                if not self.is_free:
                    self._changed.wait(left_s)
            check()

    def _ask_again(self) -> None:
        with self._changed:
            now = self._clock()
            if now - self._asked_at < _ASK_AGAIN_S:
                return
            self._asked_at = now  # nobody else asks meanwhile
        try:
            self.learn(self._ask())
        except HeadraceError as error:
            logger.info("The service does not say how full the queue is (%s); asking again.", error)

    def _error(self) -> QueueFull:
        limit, used = self._limit.bundles, self._limit.used
        most = "the limit of the whole endpoint" if limit is None else f"{limit} for you"
        return QueueFull(
            f"the queue of endpoint {self._endpoint} is full: {used} bundles of yours are unfinished there, and the"
            f" service allows no more ({most}); wait for results, or ask the endpoint's owner",
            limit=limit,
            used=used,
        )
