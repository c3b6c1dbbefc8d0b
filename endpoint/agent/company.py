"""Which other pools of its name a pool knows, and how long it waits for what they say. No clock of its own, no NATS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from headrace.bus.queues.lane_consumers import ACK_WAIT_S

ANSWER_S: Final = 0.5
"""A pool that lives has answered by then, once it is connected."""
STRANGERS_S: Final = 0.2
"""So long after each connection somebody may show up who was not known: it asks who is there, as we do."""

_MOST_KNOWN = 10_000


@dataclass(slots=True, eq=False)
class Question:
    """Whether somebody else holds a bundle."""

    bundle: UUID
    since: float
    unless: Callable[[], bool] = lambda: False
    """Whether it needs no answer any more: nobody else can hold the bundle."""
    first_number: int | None = None
    """The number of the first message in which it was asked."""
    denied: set[bytes] = field(default_factory=set)
    """Who does not hold it."""


class Company:
    """The processes that were heard of, and since when this one listens. Times are those of the event loop."""

    def __init__(self, now: float) -> None:
        self.known: set[bytes] = set()
        self._began_at = self._connected_at = now

    def connected(self, now: float) -> None:
        """There is a new connection: others may be getting theirs only now."""
        self._connected_at = now

    def met(self, process: bytes) -> None:
        """This one lives."""
        if len(self.known) < _MOST_KNOWN:
            self.known.add(process)

    def left(self, process: bytes) -> None:
        """This one has given back what it held."""
        self.known.discard(process)

    def wait_until(self, question: Question) -> float:
        """When a question to which nobody says yes is answered with no, unless more is heard before."""
        # A young process has met those who are connected. Others may be on their way back to a server that was
        # started again: they hold what they held, until it is given to others for want of a sign.
        grown_up_at = self._began_at + ACK_WAIT_S
        if self.known - question.denied:
            return max(self._connected_at + ACK_WAIT_S, question.since + ANSWER_S)
        if self.known:
            return grown_up_at
        return max(grown_up_at, self._connected_at + STRANGERS_S)

    def give_up(self, question: Question) -> None:
        """Whoever has not answered by now is not waited for again, unless it shows up."""
        self.known &= question.denied
