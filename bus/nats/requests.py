"""Requests of one connection that wait for their answers, each over the link that it went over."""

from __future__ import annotations

import asyncio
import itertools
from typing import NamedTuple

from headrace.bus.errors import BusUnavailable, PermissionDenied
from headrace.bus.nats.link import Link
from headrace.bus.nats.message import Message


class _Request(NamedTuple):
    subject: str
    answer: asyncio.Future[Message]
    link: Link


class Requests:
    """Asks over links; `answer_on` comes first, `forget` when a link is over."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Request] = {}
        self._tokens = itertools.count(1)
        self._inboxes: dict[Link, str] = {}

    def answer_on(self, link: Link, inbox: str) -> None:
        """Receive the answers to what is asked over a link under `inbox`, where nothing else comes."""
        self._inboxes[link] = inbox
        link.subscribe(0, f"{inbox}.*", self._on_answer)

    async def ask(
        self, link: Link, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float
    ) -> Message:
        """Ask and wait for the one answer.

        Raises `PermissionDenied`, and `BusUnavailable` when nobody listens, when none comes in time, and when the link
        breaks: then nobody knows whether the request has arrived.
        """
        if not link.is_up:
            raise BusUnavailable("the bus is not available: not connected")
        token = str(next(self._tokens))
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[token] = _Request(subject, answer, link)
        # A timer instead of asyncio.timeout: a third of the cost, on the hottest path there is.
        timer = answer.get_loop().call_later(timeout_s, _time_out, answer, subject)
        try:
            await link.publish(subject, payload, f"{self._inboxes[link]}.{token}", headers)
            message = await answer
        finally:
            timer.cancel()
            del self._waiting[token]
        if message.status == 503:
            raise BusUnavailable(f"nobody listens on {subject!r} at this moment")
        return message

    def deny(self, link: Link, subject: str) -> None:
        """The server has said that the credential of a link does not allow a subject."""
        for request in self._of(link):
            if request.subject == subject:
                request.answer.set_exception(PermissionDenied(f"the credential does not allow {subject!r}"))

    async def settle(self, link: Link, *, within_s: float) -> None:
        """Wait until what was asked over a link is answered, and interrupt what is not by then."""
        waiting = [request.answer for request in self._of(link)]
        if waiting and link.is_up:
            await asyncio.wait(waiting, timeout=within_s)
        self._interrupt(link)

    def forget(self, link: Link) -> None:
        """A link is over: interrupt what was asked over it."""
        self._interrupt(link)
        self._inboxes.pop(link, None)

    def interrupt_all(self) -> None:
        """Interrupt whatever waits."""
        for link in {request.link for request in self._waiting.values()}:
            self._interrupt(link)

    def _interrupt(self, link: Link) -> None:
        for request in self._of(link):
            problem = f"the connection to the bus broke while {request.subject!r} was under way"
            request.answer.set_exception(BusUnavailable(problem))

    def _of(self, link: Link) -> list[_Request]:
        return [each for each in self._waiting.values() if each.link is link and not each.answer.done()]

    def _on_answer(self, message: Message) -> None:
        request = self._waiting.get(message.subject.rsplit(".", 1)[1])
        if request is not None and not request.answer.done():
            request.answer.set_result(message)


def _time_out(answer: asyncio.Future[Message], subject: str) -> None:
    if not answer.done():
        answer.set_exception(BusUnavailable(f"no answer on {subject!r} within the time limit"))
