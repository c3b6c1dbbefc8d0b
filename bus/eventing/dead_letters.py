"""Dead letters: deliveries that were given up, whole: the event, why, and every attempt."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from headrace.bus.errors import AlreadyStored, DecodeError
from headrace.bus.eventing.deliveries import FailedAttempt
from headrace.bus.names import dead_letter_subject, dead_letters_of
from headrace.bus.nats import pages
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection

_WINDOW = 512
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
        )


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


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeadLetter).decode


async def bury(connection: Connection, letter: DeadLetter) -> None:
    """Store a dead letter; returns when it is stored, now or before.

    Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`.
    """
    subject = dead_letter_subject(letter.owner, letter.subscription_id, letter.dead_letter_id)
    try:
        await connection.store(subject, _encode(letter))
    except AlreadyStored:
        return  # Somebody who handled the same failure before, and then died, or is a replica.


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
    return [_read(message) for message in reversed(found[-limit:])]


async def _between(connection: Connection, subject: str, start: int, end: int) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    async for page in pages.messages(connection, "DEADLETTERS", subject, start=start, batch=_PAGE):
        messages += [message for message in page if message.sequence < end]
        if page[-1].sequence >= end - 1:
            break
    return messages


def _read(message: StoredMessage) -> DeadLetter:
    try:
        return _decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"the dead letter {message.subject!r} cannot be read: {error}", raw=message.data) from error
