"""What JetStream answers, read: messages stored, refused and given back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from headrace.bus.errors import (
    AlreadyStored,
    BatchRefused,
    BusError,
    BusUnavailable,
    ConsumerOverlaps,
    RecordConflict,
    StreamFull,
    StreamMissing,
)
from headrace.bus.nats.message import Message

_FULL = ("maximum bytes", "maximum messages", "insufficient", "no space left", "resource limits exceeded")
_WRONG_SEQUENCE = (10070, 10071, 10164)
_OVERLAPS = 10100
_NOT_AT_ONCE = "atomic publish"


@dataclass(frozen=True, slots=True)
class Stored:
    """The server's word that a message is stored. `duplicate`: it was stored before, under the same message id."""

    sequence: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message read from a stream; `time` is when it was stored (RFC 3339, the server's clock)."""

    subject: str
    data: bytes
    sequence: int
    time: str
    headers: Mapping[str, str]

    @property
    def stored_at(self) -> float:
        """When it was stored: unix seconds, the server's clock."""
        return datetime.fromisoformat(self.time).timestamp()

    @classmethod
    def of_message(cls, message: Message) -> StoredMessage:
        """The message that a direct read gives."""
        headers = message.headers
        return cls(
            subject=headers["Nats-Subject"],
            data=message.data,
            sequence=int(headers["Nats-Sequence"]),
            time=headers["Nats-Time-Stamp"],
            headers=headers,
        )


class _Fault(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _StoreAnswer(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _Fault | None = None


_decode_answer = msgspec.json.Decoder(_StoreAnswer).decode


def read_stored(answer: Message, subject: str) -> Stored:
    """The answer to a message that is to be stored. Raises as `headrace.bus.nats.connection.Connection.store` does."""
    decoded = _decode_answer(answer.data)
    if decoded.error is not None:
        raise _error_of(decoded.error, subject)
    return Stored(decoded.seq, decoded.duplicate)


def read_document(answer: Message, subject: str) -> dict[str, Any]:
    """The answer of the JetStream API. Raises as `headrace.bus.nats.connection.Connection.api` does."""
    document: dict[str, Any] = msgspec.json.decode(answer.data)
    if "error" in document:
        raise _error_of(msgspec.convert(document["error"], _Fault), subject)
    return document


def read_direct(answer: Message) -> StoredMessage | None:
    """The answer to a direct read of one message; None when there is none. Raises `BusUnavailable`."""
    if answer.status == 404:
        return None
    if answer.status:
        raise BusUnavailable(f"the store answers {answer.status} {answer.headers.get('Description', '')}")
    return StoredMessage.of_message(answer)


class Batch:
    """The answers to a direct batch read (NATS ADR-31), as they come. `end` gives how many more messages there are."""

    def __init__(self, stream: str) -> None:
        self.messages: list[StoredMessage] = []
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stream = stream

    def take(self, answer: Message) -> None:
        """Take the next answer."""
        if self.end.done():
            return
        if answer.status == 0:
            self.messages.append(StoredMessage.of_message(answer))
            if "Nats-Num-Pending" not in answer.headers:
                self.end.set_result(0)
        elif answer.status == 204:
            self.end.set_result(int(answer.headers.get("Nats-Num-Pending", "0")))
        elif answer.status == 404:
            self.end.set_result(0)
        elif answer.status == 503:
            self.end.set_exception(StreamMissing(f"the bus has no stream {self._stream!r}, or it does not answer now"))
        else:
            problem = answer.headers.get("Description", answer.status)
            self.end.set_exception(BusError(f"reading {self._stream}: {problem}"))


def _error_of(fault: _Fault, subject: str) -> BusError:  # noqa: PLR0911  # one for each kind of refusal
    text = fault.description.lower()
    if "per subject" in text:
        return AlreadyStored(f"{subject!r} holds a message already")
    if fault.err_code in _WRONG_SEQUENCE or "wrong last sequence" in text:
        return RecordConflict(f"{subject!r} was changed by somebody else")
    if any(sign in text for sign in _FULL):
        return StreamFull(f"nothing more can be stored under {subject!r} now: {fault.description}")
    if _NOT_AT_ONCE in text:
        return BatchRefused(f"{subject!r}: {fault.description}")
    if fault.err_code == _OVERLAPS:
        return ConsumerOverlaps(f"{subject!r}: {fault.description}")
    if fault.code == 404:
        return StreamMissing(f"{subject!r}: {fault.description}")
    if fault.code == 503:
        return BusUnavailable(f"{subject!r}: {fault.description}")
    return BusError(f"{subject!r} was refused: {fault.description} (error {fault.err_code})")
