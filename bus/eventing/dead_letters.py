"""Dead letters: deliveries that were given up, whole: the event, why, and every attempt."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from headrace.bus.errors import AlreadyStored, DecodeError
from headrace.bus.eventing.deliveries import Delivery, FailedAttempt, Waiting, wait_until
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.names import dead_letter_subject, dead_letters_of, redrive_subject
from headrace.bus.nats import pages
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import purge

_WINDOW = 512
_MOST_REASON = 1000
_PAGE = 200


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, as people read it. Times are unix seconds by the endpoint's clock; None when it did not start."""

    attempt: int
    task_id: UUID
    state: str
    error: str
    message: str
    traceback: str
    started_at: float | None
    ended_at: float | None
    status: int | None = None
    """What a sink answered (HTTP)."""

    @classmethod
    def of(cls, failed: FailedAttempt) -> Attempt:
        """From the form that travels."""
        return cls(
            attempt=failed.attempt,
            task_id=failed.task_id,
            state=failed.state,
            error=failed.error,
            message=failed.message,
            traceback=failed.traceback,
            started_at=failed.started_at or None,
            ended_at=failed.ended_at or None,
            status=failed.status or None,
        )

    def failed(self) -> FailedAttempt:
        """In the form that travels."""
        return FailedAttempt(
            attempt=self.attempt,
            task_id=self.task_id,
            state=self.state,
            error=self.error,
            message=self.message,
            traceback=self.traceback,
            started_at=self.started_at or 0.0,
            ended_at=self.ended_at or 0.0,
            status=self.status or 0,
        ).shortened()


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was given up. `event` is None when the bus had forgotten it by then."""

    dead_letter_id: UUID
    subscription_id: UUID
    subscription_name: str
    owner: str
    function_id: UUID
    endpoint_id: UUID
    bus: str
    sequence: int
    source: str
    event_id: str
    event: Any
    reason: str
    code: str
    """A stable name for the kind of reason, such as `AttemptsExhausted` or `InputFailed`."""
    attempts: list[Attempt]
    created_at: float
    redriven: int = 0
    """How often it was taken from the dead letters before."""
    replay_id: UUID | None = None
    """The replay that it belongs to, if it is one's."""

    def delivery(self, endpoint: UUID | None = None) -> Delivery:
        """The delivery, once more from the beginning of its attempts, also at another endpoint."""
        failed = [each.failed() for each in self.attempts]
        used_up = max((each.attempt for each in self.attempts), default=0)
        return Delivery(
            subscription=self.subscription_id,
            bus=self.bus,
            sequence=self.sequence,
            source=self.source,
            event_id=self.event_id,
            attempt=used_up + 1,
            failed=failed,
            used_up=used_up,
            redriven=self.redriven + 1,
            # An event that could not choose its endpoint chooses again.
            endpoint=endpoint or (self.endpoint_id if self.endpoint_id.int else None),
            replay=self.replay_id,
        )


class Redrive(msgspec.Struct, frozen=True, kw_only=True):
    """What is left where a dead letter was that was taken up again: whoever follows a delivery finds its next life."""

    endpoint_id: UUID
    """Where it goes on."""
    redriven: int
    """How often it was taken up, this time among them."""
    at: float
    reason: str
    """Why it had been given up."""
    code: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeadLetter).decode
_decode_redrive = msgspec.json.Decoder(Redrive).decode


async def bury(connection: Connection, letter: DeadLetter) -> bool:
    """Store a dead letter; gives whether it was stored now, and not before.

    Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`.
    """
    subject = dead_letter_subject(letter.owner, letter.subscription_id, letter.dead_letter_id)
    try:
        await connection.store(subject, _encode(letter))
    except AlreadyStored:
        return False  # Somebody who handled the same failure before, and then died, or is a replica.
    return True


async def find(connection: Connection, owner: str, dead_letter_id: UUID) -> DeadLetter | None:
    """A dead letter of an owner, or None. Raises `BusUnavailable`."""
    query = {"multi_last": [dead_letter_subject(owner, None, dead_letter_id)], "batch": 1}
    messages, _ = await connection.read_many("DEADLETTERS", query)
    return read_letter(messages[0]) if messages else None


async def forget(connection: Connection, letter: DeadLetter) -> None:
    """Remove a dead letter. Raises `BusUnavailable`."""
    subject = dead_letter_subject(letter.owner, letter.subscription_id, letter.dead_letter_id)
    await purge(connection, "DEADLETTERS", subject)


async def redrive(
    connection: Connection, letter: DeadLetter, *, endpoint: UUID | None = None, due: datetime | None = None
) -> bool:
    """Deliver once more what a letter holds, now or at a time, also elsewhere; the letter is gone then.

    Gives False where there is nothing to deliver: the event was forgotten before the letter was written. Twice at one
    endpoint is once. Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`.
    """
    if letter.event is None:
        return False
    delivery = letter.delivery(endpoint)
    event = CloudEvent.of_document(letter.event)
    place = delivery.place(letter.endpoint_id)
    await _note(connection, letter, delivery, place)
    await wait_until(connection, Waiting(delivery, event.encode()), place, due or datetime.now(UTC))
    # Only now: a crash in between leaves a letter that can be taken again, and the bundle's id sees to it that this
    # is one attempt.
    await forget(connection, letter)
    return True


async def _note(connection: Connection, letter: DeadLetter, delivery: Delivery, place: UUID) -> None:
    subject = redrive_subject(dead_letter_subject(letter.owner, letter.subscription_id, letter.dead_letter_id))
    redrive = Redrive(
        endpoint_id=place,
        redriven=delivery.redriven,
        at=time.time(),
        reason=letter.reason[:_MOST_REASON],
        code=letter.code,
    )
    # It may have been noted by somebody who died then.
    with contextlib.suppress(AlreadyStored):
        await connection.store(subject, _encode(redrive))


async def newest(
    connection: Connection, owner: str, *, subscription: UUID | None = None, limit: int = 100
) -> list[DeadLetter]:
    """The newest dead letters of an owner, newest first. Raises `BusUnavailable`."""
    state = (await connection.api("STREAM.INFO.DEADLETTERS"))["state"]
    subject = dead_letters_of(owner, subscription)
    found: list[StoredMessage] = []
    first, end, window = max(1, int(state["first_seq"])), int(state["last_seq"]) + 1, _WINDOW
    # The store can only be read forwards: so in windows, from the end, each twice as wide as the one before.
    while end > first and len(found) < limit:
        start = max(end - window, first)
        found = await _between(connection, subject, start, end) + found
        end, window = start, window * 2
    return [read_letter(message) for message in reversed(found[-limit:])]


async def _between(connection: Connection, subject: str, start: int, end: int) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    async for page in pages.messages(connection, "DEADLETTERS", subject, start=start, batch=_PAGE):
        messages += [message for message in page if message.sequence < end]
        if page[-1].sequence >= end - 1:
            break
    return messages


def read_redrive(message: StoredMessage) -> Redrive:
    """The note of a redrive, as DEADLETTERS holds it. Raises `DecodeError`."""
    try:
        return _decode_redrive(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"the redrive {message.subject!r} cannot be read: {error}", raw=message.data) from error


def read_letter(message: StoredMessage) -> DeadLetter:
    """A letter as DEADLETTERS holds it. Raises `DecodeError`."""
    try:
        return _decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"the dead letter {message.subject!r} cannot be read: {error}", raw=message.data) from error
