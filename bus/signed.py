"""Short messages that are signed: of whom they come, and for which subject.

    magic(2) version(1)  MAC(32)  body

The body is a struct in msgpack. The MAC covers what the message is for, its subject and its body.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from headrace.bus.errors import DecodeError
from headrace.bus.keys import MAC_BYTES, Keys, check_mac, mac
from headrace.bus.structs import reader

T = TypeVar("T", bound=msgspec.Struct)

# Sets in one order: the same content is the same message.
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Signed(Generic[T]):
    """One kind of these messages; `what` is it to people, `magic` has three bytes."""

    def __init__(self, kind: type[T], what: str, *, magic: bytes, purpose: str | bytes) -> None:
        self._what, self._magic, self._purpose = what, magic, purpose
        self._read = reader(kind, f"the signed body of {what}")

    def encode(self, content: T, *, subject: str, key: bytes) -> bytes:
        """The message that goes to `subject`."""
        body = _encode(content)
        return b"".join((self._magic, mac(key, self._purpose, subject, body), body))

    def decode(self, message: bytes, *, subject: str, key: Keys) -> T:
        """Raises `SignatureInvalid` before anything inside is looked at, and `DecodeError`."""
        head = len(self._magic)
        if not message.startswith(self._magic) or len(message) < head + MAC_BYTES:
            raise DecodeError(f"not {self._what} of wire version {self._magic[-1]}", raw=message)
        signature, body = message[head : head + MAC_BYTES], message[head + MAC_BYTES :]
        check_mac(key, signature, self._purpose, subject, body)
        return self._read(body)
