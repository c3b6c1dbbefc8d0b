"""What a pool is told of its lanes: the name of each, in its grant, and of each new one in a signed message.

    news  b"HL" version(1)  MAC(32)  body

The MAC covers subject and body under the pool's secret: only the service can tell of a lane.
"""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.bus.errors import DecodeError
from headrace.bus.keys import MAC_BYTES, Keys, check_mac, mac

_MAGIC: Final = b"HL\x01"
_PURPOSE: Final = "lane"


class LaneName(msgspec.Struct, array_like=True, frozen=True):
    """A lane as its pool knows it: the durable consumer, and whose bundles it gives."""

    consumer: str
    principal: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LaneName).decode


def encode_news(lane: LaneName, *, subject: str, pool_secret: bytes) -> bytes:
    """The message that tells a pool of a lane."""
    body = _encode(lane)
    return b"".join((_MAGIC, mac(pool_secret, _PURPOSE, subject, body), body))


def decode_news(message: bytes, *, subject: str, pool_secret: Keys) -> LaneName:
    """Read such a message. Raises `SignatureInvalid` and `DecodeError`."""
    if message[:3] != _MAGIC or len(message) < 3 + MAC_BYTES:
        raise DecodeError("not the news of a lane of wire version 1", raw=message)
    signature, body = message[3 : 3 + MAC_BYTES], message[3 + MAC_BYTES :]
    check_mac(pool_secret, signature, _PURPOSE, subject, body)
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"the signed news of a lane cannot be read: {error}", raw=message) from error
