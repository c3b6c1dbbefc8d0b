"""Reading one feed: messages of another server, taken in their order, become events of a bus.

What a stream holds is acked when its event is stored, so a crash anywhere repeats messages and loses none; a repeated
one has the same id. What nothing holds comes at most once: what arrives while nobody reads, or faster than it can be
stored for long, is lost, and the latter is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from headrace.bus.errors import (
    BusError,
    BusMissing,
    BusUnavailable,
    DecodeError,
    EventRefused,
    EventUnfit,
    InputFailed,
    PayloadTooLarge,
    PermissionDenied,
    PublishingForbidden,
    SignatureInvalid,
)
from headrace.bus.eventing.events import CloudEvent, Published, message_id
from headrace.bus.eventing.feeds.counting import Counts
from headrace.bus.eventing.feeds.models import FeedRecord, revealed
from headrace.bus.eventing.feeds.positions import MOST_IN_HAND, forget_position, position, stored_ids
from headrace.bus.eventing.feeds.shaping import FeedMessage, Shaper
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.nats.pull import Delivery, Puller
from headrace.bus.network import Network
from headrace.schemas import SchemaViolation

logger = logging.getLogger(__name__)

MOST_WAITING: Final = 10_000
"""Messages that nothing holds and that wait here, at most; and bytes:"""
MOST_WAITING_BYTES: Final = 64 * 1024 * 1024

_BATCH = 500
_CONNECT_S = 5.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_NOT_OURS = (EventRefused, DecodeError, InputFailed, SchemaViolation)


@dataclass(slots=True)
class _Taken:
    """A message in hand; `delivery` is how a stream gave it."""

    message: FeedMessage
    delivery: Delivery | None = None


@dataclass(slots=True)
class _Waiting:
    """What has come and is not stored yet."""

    queue: asyncio.Queue[_Taken] = field(default_factory=asyncio.Queue)
    bytes: int = 0
    in_hand: set[int] = field(default_factory=set)
    on_room: Callable[[], None] = lambda: None
    doubtful: int = 0
    """Messages up to this sequence may be stored already: then their ids are among the known ones."""
    known: frozenset[str] = frozenset()

    def may_be_stored(self, taken: _Taken) -> bool:
        """Whether a message was given to somebody before."""
        return taken.delivery is not None and taken.delivery.sequence <= self.doubtful


class FeedReader:
    """Reads one feed. `read` until cancelled."""

    def __init__(
        self, connection: Connection, keys: KeyRing, publishing: Publishing, network: Network, feed: FeedRecord
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._publishing = publishing
        # Where our own bus is to be found says nothing of other servers.
        self._network = replace(network, nats_urls=())
        self._feed = feed

    async def read(self, counts: Counts) -> None:
        """Read until cancelled; whatever goes wrong is told, and tried again after a pause."""
        pause_s = _FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            counts.state = "connecting"
            try:
                shaper = Shaper(self._feed)
                async with self._other() as other:
                    counts.state = "reading"
                    await self._pump(other, shaper, counts)
            except* (BusError, OSError) as problems:
                problem: BaseException = problems
                while isinstance(problem, BaseExceptionGroup):
                    problem = problem.exceptions[0]
                self._tell(counts, str(problem) or type(problem).__name__)
            pause_s = _FIRST_PAUSE_S if time.monotonic() - began > _LONGEST_PAUSE_S else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def forget(self) -> None:
        """The feed is deleted: its consumer at the other server goes, if that answers soon."""
        if not self._feed.stream:
            return
        with contextlib.suppress(BusError, TimeoutError):
            async with asyncio.timeout(_CONNECT_S), self._other() as other:
                await forget_position(other, self._feed)

    def _other(self) -> Connection:
        try:
            credential = revealed(self._keys, self._feed)
        except SignatureInvalid:
            raise PermissionDenied(
                "the credential of the feed was concealed under a key that is forgotten; give it a new one"
            ) from None
        return Connection(
            self._feed.urls,
            credential.credentials(),
            name=f"headrace feed {self._feed.name}",
            connect_timeout_s=_CONNECT_S,
            network=self._network,
        )

    async def _pump(self, other: Connection, shaper: Shaper, counts: Counts) -> None:
        waiting = _Waiting()
        async with asyncio.TaskGroup() as group:
            if self._feed.stream:
                group.create_task(self._pull(other, waiting, counts), name="feed: pull")
            else:
                await self._listen(other, waiting, counts)
            while True:
                taken = [await waiting.queue.get()]
                while len(taken) < _BATCH and not waiting.queue.empty():
                    taken.append(waiting.queue.get_nowait())
                answers = await self._store(taken, waiting, shaper, counts)
                for each, answer in zip(taken, answers, strict=True):
                    waiting.bytes -= len(each.message.data)
                    if each.delivery is not None:
                        # An answer that is lost costs a repetition, and repetitions have no effect.
                        with contextlib.suppress(BusUnavailable):
                            await other.publish(each.delivery.ack_subject, answer)
                        waiting.in_hand.discard(each.delivery.sequence)
                waiting.on_room()

    # What nothing holds

    async def _listen(self, other: Connection, waiting: _Waiting, counts: Counts) -> None:
        def take(message: Message) -> None:
            counts.received += 1
            if waiting.queue.qsize() >= MOST_WAITING or waiting.bytes + len(message.data) > MOST_WAITING_BYTES:
                counts.lost += 1
                counts.problem = "messages come faster than they can be stored; some are lost"
                return
            waiting.bytes += len(message.data)
            waiting.queue.put_nowait(_Taken(FeedMessage.now(message.subject, message.headers, message.data)))

        denied: list[str] = []
        other.on_denied.append(denied.append)
        for subject in self._feed.subjects:
            await other.subscribe(subject, take)
        # What the server refuses it says before it answers this.
        await other.flush()
        if denied:
            raise PermissionDenied(f"the credential does not allow to subscribe to {', '.join(denied)}")

    # What a stream holds

    async def _pull(self, other: Connection, waiting: _Waiting, counts: Counts) -> None:
        feed = self._feed
        created = (await other.api(f"STREAM.INFO.{feed.stream}"))["created"]
        # A stream that is made anew counts from 1 again, and its messages are others.
        origin = f"{feed.stream}@{int(datetime.fromisoformat(created).timestamp())}"
        begin = await position(other, feed)
        waiting.doubtful = begin.doubtful
        waiting.known = await stored_ids(self._connection, feed.bus) if begin.doubtful else frozenset()

        def take(delivery: Delivery) -> None:
            if delivery.sequence in waiting.in_hand:
                return  # it took us longer than the consumer waits
            waiting.in_hand.add(delivery.sequence)
            counts.received += 1
            message = FeedMessage(
                subject=delivery.subject,
                headers=delivery.headers,
                data=delivery.data,
                stored_at=delivery.stored_ns / 1e9,
                origin=origin,
                sequence=delivery.sequence,
            )
            waiting.bytes += len(delivery.data)
            waiting.queue.put_nowait(_Taken(message, delivery))

        refused = asyncio.Event()
        puller = Puller(
            other,
            feed.stream,
            begin.consumer,
            take,
            batch=_BATCH,
            room=lambda: MOST_IN_HAND - len(waiting.in_hand),
            on_refused=refused.set,
        )
        waiting.on_room = puller.wake
        # What was under way to us when a connection broke comes again behind what is newer: so after a reconnect, too,
        # we begin where all is acked.
        other.on_connected.append(refused.set)
        async with asyncio.TaskGroup() as group:
            group.create_task(puller.run(), name="feed: requests")
            await refused.wait()
            raise BusError("the connection was lost, or the stream or its consumer is gone; looking where it goes on")

    # Storing

    async def _store(self, taken: Sequence[_Taken], waiting: _Waiting, shaper: Shaper, counts: Counts) -> list[bytes]:
        """Store the events of these messages; gives what to answer for each, once all are stored or passed over."""
        answers = [b"+ACK"] * len(taken)
        fit: list[tuple[int, CloudEvent]] = []
        for place, each in enumerate(taken):
            try:
                event = shaper.event(each.message)
            except _NOT_OURS as error:
                answers[place] = b"+TERM"
                self._refuse(counts, each.message, error)
                continue
            if waiting.may_be_stored(each) and message_id(event, self._feed.bus) in waiting.known:
                counts.duplicates += 1
            else:
                fit.append((place, event))
        if fit:
            await self._publish(taken, fit, answers, counts)
        return answers

    async def _publish(
        self, taken: Sequence[_Taken], fit: Sequence[tuple[int, CloudEvent]], answers: list[bytes], counts: Counts
    ) -> None:
        try:
            self._count(await self._steadily([event for _, event in fit], counts), counts)
            return
        except (EventUnfit, PayloadTooLarge):
            pass  # One of them; the others are stored.
        for place, event in fit:
            try:
                self._count(await self._steadily([event], counts), counts)
            except (EventUnfit, PayloadTooLarge) as error:
                answers[place] = b"+TERM"
                self._refuse(counts, taken[place].message, error)

    async def _steadily(self, events: Sequence[CloudEvent], counts: Counts) -> list[Published]:
        """Store events, as often as it takes. Raises `EventUnfit` and `PayloadTooLarge`."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                published = await self._publishing.publish_together(
                    events, bus=self._feed.bus, publisher=self._feed.owner, check=True
                )
                counts.state = "reading"
                return published
            except (EventUnfit, PayloadTooLarge):
                raise
            except (BusMissing, PublishingForbidden, BusError) as error:
                self._tell(counts, str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _count(self, published: Sequence[Published], counts: Counts) -> None:
        counts.stored += len(published)
        counts.duplicates += sum(each.duplicate for each in published)

    def _refuse(self, counts: Counts, message: FeedMessage, error: Exception) -> None:
        counts.refused += 1
        counts.problem = f"a message on {message.subject!r} was passed over: {error}"[:1000]
        if counts.may_tell():
            logger.warning(
                "A message of feed %s on %s is passed over: %s",
                self._feed.feed_id,
                message.subject,
                str(error)[:500],
                extra={"action": "feed_message_refused", "feed": str(self._feed.feed_id), "sequence": message.sequence},
            )

    def _tell(self, counts: Counts, problem: str) -> None:
        if (counts.state, counts.problem) != ("failing", problem) or counts.may_tell():
            logger.warning(
                "The feed %s does not go on (%s); trying again.",
                self._feed.feed_id,
                problem,
                extra={"action": "feed_failing", "feed": str(self._feed.feed_id)},
            )
        counts.state, counts.problem = "failing", problem[:1000]
