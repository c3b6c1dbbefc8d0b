"""What a pool is told of its lanes: the name of each, in its grant, and of each new one in a signed message.

    news  b"HL" version(1)  MAC(32)  body         (`headrace.bus.signed`)

The MAC covers subject and body under the pool's secret: only the service can tell of a lane.
"""

from __future__ import annotations

import msgspec

from headrace.bus.keys import Keys
from headrace.bus.signed import Signed


class LaneName(msgspec.Struct, array_like=True, frozen=True):
    """A lane as its pool knows it: the durable consumer, and whose bundles it gives."""

    consumer: str
    principal: str
    remade_up_to: int = 0
    """Up to this sequence bundles may have been given to another pool by an earlier consumer of the lane."""


_signed = Signed(LaneName, "the news of a lane", magic=b"HL\x01", purpose="lane")


def encode_news(lane: LaneName, *, subject: str, pool_secret: bytes) -> bytes:
    """The message that tells a pool of a lane."""
    return _signed.encode(lane, subject=subject, key=pool_secret)


def decode_news(message: bytes, *, subject: str, pool_secret: Keys) -> LaneName:
    """Read such a message. Raises `SignatureInvalid` and `DecodeError`."""
    return _signed.decode(message, subject=subject, key=pool_secret)
