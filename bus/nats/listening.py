"""What one connection is subscribed to, over one link after the other."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

from headrace.bus.errors import BusUnavailable
from headrace.bus.nats.link import Callback, Link

_ANSWER_WAIT_S = 5.0


@dataclass(eq=False, slots=True)
class Subscription:
    """A subscription that outlives reconnects and renewals; `cancel` ends it."""

    _owner: Subscriptions
    _subject: str
    _inbox: bool
    _callback: Callback
    _number: int
    _queue: str = ""

    @property
    def subject(self) -> str:
        """What is subscribed now; an inbox moves with the credential."""
        return self._subject_of(self._owner.inbox)

    def _subject_of(self, inbox: str) -> str:
        return f"{inbox}.{self._subject}" if self._inbox else self._subject

    async def cancel(self) -> None:
        """End the subscription."""
        self._owner._forget(self)


class Subscriptions:
    """All subscriptions of a connection: `make_over` makes them over a link, which then comes to `use`."""

    def __init__(self) -> None:
        self.inbox = ""
        """Under which subject the inboxes lie now."""
        self._link: Link | None = None
        self._all: list[Subscription] = []
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._all)

    def use(self, link: Link, inbox: str) -> None:
        """Subscribe over this link from now on."""
        self._link, self.inbox = link, inbox

    def leave(self) -> None:
        """The connection is closed: there is no link any more."""
        self._link = None

    def add(self, subject: str, callback: Callback, *, inbox: bool = False, queue: str = "") -> Subscription:
        """Call `callback` for each message on `subject`, which lies in the connection's own inbox or does not.

        Raises `BusUnavailable` when the connection is closed.
        """
        if self._link is None:
            raise BusUnavailable("the connection to the bus is closed")
        subscription = Subscription(self, subject, inbox, callback, next(self._numbers), queue)
        self._all.append(subscription)
        if self._link.is_up:  # else the next link begins with it
            self._link.subscribe(subscription._number, subscription.subject, callback, queue=queue)
        return subscription

    async def make_over(self, link: Link, inbox: str) -> None:
        """Make all subscriptions, those that come meanwhile as well, over another link; the server knows them then.

        Raises `BusUnavailable`.
        """
        done: set[Subscription] = set()
        while missing := [each for each in self._all if each not in done]:
            for each in missing:
                link.subscribe(each._number, each._subject_of(inbox), each._callback, queue=each._queue)
                done.add(each)
            try:
                async with asyncio.timeout(_ANSWER_WAIT_S):
                    await link.flush()
            except TimeoutError:
                raise BusUnavailable("the bus does not answer") from None
        for each in done - set(self._all):
            link.unsubscribe(each._number)  # cancelled meanwhile

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._all:
            self._all.remove(subscription)
            if self._link is not None:
                self._link.unsubscribe(subscription._number)
