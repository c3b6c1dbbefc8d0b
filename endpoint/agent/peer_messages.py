"""What pools of one name tell each other of the bundles in their hands, wherever their machines are.

    ask      to all: who is there, and which of these bundles do you hold? (may name none)
    answer   to who asked: these I hold, those I do not
    leave    to all: I have given everything back, wait for no answer of mine

    message  b"HP" version(1)  body

The body is a struct in msgpack, array-like and tagged. The messages go over core NATS: nothing of them is stored, and
each may be lost. Only pools of this name, of this endpoint, may send and hear them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from headrace.bus.errors import DecodeError

PROCESS_BYTES: Final = 8
MOST_BUNDLES: Final = 256
"""How many bundles one message names at most: about 4 KB."""
_ID_BYTES = 16
_MAGIC = b"HP\x01"

Process = bytes
"""Random bytes that a pool's process has made for itself: another process is another one."""


class Ask(msgspec.Struct, array_like=True, frozen=True, tag="ask"):
    """A process asks all others. Its questions are numbered."""

    process: Process
    number: int = 0
    bundles: bytes = b""


class Answer(msgspec.Struct, array_like=True, frozen=True, tag="answer"):
    """What a process says to question `number`."""

    process: Process
    number: int = 0
    held: bytes = b""
    free: bytes = b""


class Leave(msgspec.Struct, array_like=True, frozen=True, tag="leave"):
    """A process ends, and holds nothing any more."""

    process: Process


PeerMessage = Ask | Answer | Leave

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PeerMessage).decode


def encode_peer(message: PeerMessage) -> bytes:
    """The message as it travels."""
    return _MAGIC + _encode(message)


def decode_peer(data: bytes) -> PeerMessage:
    """Read such a message. Raises `DecodeError`."""
    if not data.startswith(_MAGIC):
        raise DecodeError("not a message of another pool in a version that is known here", raw=data[:64])
    try:
        message: PeerMessage = _decode(data[len(_MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"a message of another pool cannot be read: {error}", raw=data[:64]) from error
    lists = _lists(message)
    if len(message.process) != PROCESS_BYTES or any(len(ids) % _ID_BYTES for ids in lists):
        raise DecodeError("a message of another pool has ids of a wrong length", raw=data[:64])
    if sum(map(len, lists)) > MOST_BUNDLES * _ID_BYTES:
        raise DecodeError("a message of another pool names too many bundles", raw=data[:64])
    return message


def _lists(message: PeerMessage) -> list[bytes]:
    if isinstance(message, Ask):
        return [message.bundles]
    return [message.held, message.free] if isinstance(message, Answer) else []


def pack(bundles: Iterable[UUID]) -> bytes:
    """Ids as they travel."""
    return b"".join(bundle.bytes for bundle in bundles)


def unpack(ids: bytes) -> list[UUID]:
    """The ids again."""
    return [UUID(bytes=ids[at : at + _ID_BYTES]) for at in range(0, len(ids), _ID_BYTES)]
