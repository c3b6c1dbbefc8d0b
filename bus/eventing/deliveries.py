"""Deliveries: one event on its way to one subscription's function, and the attempts that it took so far.

What is known of a delivery travels with it: in its bundle (`origin`, which comes back with the results), and in
DELIVERIES while it waits for its next attempt. So there is no table to keep, and nothing to lose in a crash.

The bundle of an attempt has an id that follows from the subscription, the event's source and id, and the attempt. An
event that is published, matched or tried again therefore finds its bundle queued or its result stored. For the same
reason the id's time is no time: were it the moment of storing, an event that is published again after the server's
window for duplicates would run twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Final
from uuid import UUID

import msgspec

from headrace.bus import ids, names
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import purge
from headrace.bus.structs import reader

SCHEDULE_HEADER: Final = "Nats-Schedule"
SCHEDULE_TARGET_HEADER: Final = "Nats-Schedule-Target"

JOIN: Final = "join"

_MOST_TEXT = 4000


class FailedAttempt(msgspec.Struct, array_like=True, frozen=True):
    """How one attempt ended. Times are unix seconds by the endpoint's clock; 0 when it did not come so far."""

    attempt: int
    task_id: UUID
    state: str
    error: str
    """The type of the exception, or the code of Headrace's own verdict."""
    message: str = ""
    traceback: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    status: int = 0
    """What a sink answered (HTTP); 0 where it did not, and for functions."""

    def shortened(self) -> FailedAttempt:
        """With texts cut to what may travel along; the whole is in the task's result."""
        return msgspec.structs.replace(self, message=self.message[:_MOST_TEXT], traceback=self.traceback[-_MOST_TEXT:])


class Delivery(msgspec.Struct, array_like=True, frozen=True):
    """One attempt to deliver an event: number `attempt` (from 1), after the `failed` ones."""

    subscription: UUID
    bus: str
    sequence: int
    """The event's place in the stream EVENTS."""
    source: str
    event_id: str
    attempt: int = 1
    failed: list[FailedAttempt] = []
    used_up: int = 0
    """How many attempts do not count any more: those before it was taken from the dead letters again."""
    redriven: int = 0
    """How often it was."""
    endpoint: UUID | None = None
    """Where it goes in place of the subscription's endpoint."""
    published_at: float = 0.0
    """When the event was stored: unix seconds, the server's clock; 0 where its age does not matter any more."""
    replay: UUID | None = None
    """The replay that it belongs to; None is the one delivery that there is without a replay."""
    batch: dict[str, list[int]] = {}
    """In the bundle of a batch, which this delivery stands for: the sequences of all its events, by their replay (hex;
    "" where there is none). Each is counted from the one before it, for they are many and lie close together."""

    def standing_for(self, members: Iterable[Delivery]) -> Delivery:
        """The same, in the bundle of these deliveries."""
        sequences: dict[str, list[int]] = {}
        for each in sorted(members, key=lambda each: each.sequence):
            sequences.setdefault(each.replay.hex if each.replay else "", []).append(each.sequence)
        batch = {replay: [b - a for a, b in pairwise([0, *each])] for replay, each in sequences.items()}
        return msgspec.structs.replace(self, batch=batch)

    def stands_for(self, other: Delivery) -> bool:
        """Whether this is the delivery of a bundle in which that one went."""
        deltas = self.batch.get(other.replay.hex if other.replay else "", ())
        return (self.subscription, self.bus) == (other.subscription, other.bus) and other.sequence in accumulate(deltas)

    @property
    def counted(self) -> int:
        """How many attempts count against the most that there may be, this one among them."""
        return self.attempt - self.used_up

    def place(self, subscribed: UUID) -> UUID:
        """The endpoint that runs it, where the subscription names this one."""
        return self.endpoint or subscribed

    def delivery_id(self, endpoint: UUID) -> UUID:
        """What all attempts have in common, up to its death: who comes back from the dead has another one."""
        return self._id(endpoint, f"redriven {self.redriven}" if self.redriven else "")

    def bundle_id(self, endpoint: UUID) -> UUID:
        """The id of this attempt's bundle, the same whoever makes it, however often."""
        return self._id(endpoint, str(self.attempt))

    def task_id(self, endpoint: UUID) -> UUID:
        """The id of this attempt's only task."""
        return ids.task_id(self.bundle_id(endpoint), 0)

    def next(self, failure: FailedAttempt) -> Delivery:
        """The attempt after this one, which failed."""
        return msgspec.structs.replace(self, attempt=self.attempt + 1, failed=[*self.failed, failure.shortened()])

    def numbered(self, attempt: int) -> Delivery:
        """The same with another number; for ids."""
        return msgspec.structs.replace(self, attempt=attempt)

    def elsewhere(self, waited: FailedAttempt, endpoint: UUID) -> Delivery:
        """The same attempt at another endpoint: this one did not begin."""
        return msgspec.structs.replace(self, failed=[*self.failed, waited.shortened()], endpoint=endpoint)

    @property
    def lot(self) -> float:
        """A number from 0 to 1 that follows from delivery and attempt: the part of the jitter that this one has."""
        return int.from_bytes(self._digest(f"lot {self.redriven} {self.attempt}")) / float(1 << 48)

    def encode(self) -> bytes:
        """As it travels in a bundle's `origin`."""
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Delivery:
        """Raises `DecodeError`."""
        return _read_delivery(data)

    def _id(self, endpoint: UUID, attempt: str) -> UUID:
        if self.replay is not None:
            attempt = f"replay {self.replay.hex} {attempt}"
        # All 94 free bits of the id are needed: millions of deliveries must not meet in the 46 random ones.
        digest = int.from_bytes(self._digest(attempt), "big")
        return ids.repeatable_bundle_id(endpoint, digest, *self._origin(attempt))

    def _origin(self, attempt: str) -> tuple[str, ...]:
        return self.subscription.hex, self.bus, self.source, self.event_id, attempt

    def _digest(self, attempt: str) -> bytes:
        origin = "\x00".join(self._origin(attempt)).encode()
        return hashlib.blake2b(origin, digest_size=6, person=b"headrace time").digest()


class Waiting(msgspec.Struct, array_like=True, frozen=True):
    """A delivery that waits for its time, with its event: the stream EVENTS may forget it meanwhile."""

    delivery: Delivery
    event: bytes
    purpose: str = ""
    """What is due then: an attempt; or, as `JOIN`, the end of a join's window (`source` is its key)."""

    def encode(self) -> bytes:
        """As it is stored in DELIVERIES."""
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Waiting:
        """Raises `DecodeError`."""
        return _read_waiting(data)


_encode = msgspec.msgpack.Encoder().encode
_read_delivery = reader(Delivery, "the origin of a delivery")
_read_waiting = reader(Waiting, "a waiting delivery")


async def wait_until(connection: Connection, waiting: Waiting, endpoint: UUID, due: datetime) -> None:
    """Store a delivery until its time. The server keeps the clock (its scheduled messages), also across its restarts.

    Storing the same attempt again, for the same time, replaces it.

    Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`.
    """
    subscription, bundle = waiting.delivery.subscription, waiting.delivery.bundle_id(endpoint)
    headers = {
        SCHEDULE_HEADER: f"@at {due.astimezone(UTC).isoformat().replace('+00:00', 'Z')}",
        SCHEDULE_TARGET_HEADER: names.delivery_due_subject(subscription, bundle),
    }
    subject = names.delivery_later_subject(subscription, bundle, int(due.timestamp() * 1000))
    await connection.store(subject, waiting.encode(), headers=headers)


async def drop_waiting(connection: Connection, subscription: UUID) -> int:
    """Remove all that waits for a subscription; gives how many. Raises `BusUnavailable`."""
    return await purge(connection, "DELIVERIES", names.deliveries_of(subscription))


def after(stored_ns: int, delay_s: float) -> datetime:
    """A time by the server's clock, counted from when a message was stored."""
    return datetime.fromtimestamp(stored_ns / 1e9, UTC) + timedelta(seconds=delay_s)
