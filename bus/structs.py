"""Structs in msgpack, as they travel and are stored: read by one door, so that every failure is a `DecodeError`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from headrace.bus.errors import DecodeError

T = TypeVar("T")


def reader(kind: type[T], what: str) -> Callable[[bytes], T]:
    """What reads structs of this kind, `what` to people. It raises `DecodeError`."""
    decode = msgspec.msgpack.Decoder(kind).decode

    def read(data: bytes) -> T:
        try:
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError(f"{what} cannot be read: {error}", raw=data) from error

    return read
