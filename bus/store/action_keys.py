"""Where the record of an action lies, and ids of actions that say so.

    key    a.<creator>.<request>       48 and 62 bits of hashes, in hex: one for each request id of a creator
    id     a UUID (version 8), alone or behind a prefix such as `tg_`: the same bits, and 12 that change with each life

A release forgets an action with its request id, which may then start another one under the same key; the 12 bits tell
the two apart. Hashes of two requests may be equal, if hardly ever: whoever reads a record compares what it says.

An earlier layout had the keys `<creator>.<request>`, of 128 bits each, and a bucket of pointers from ids to keys.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from uuid import UUID

_CREATOR_BITS = 48
_LIFE_BITS = 12
_REQUEST_BITS = 62
_VERSION = 8
_UUID_LENGTH = 36


def new_action_id(provider: str, creator: str, request_id: str) -> UUID:
    """An id for the action of a request, which leads to its record."""
    creator_part, request_part = _parts(provider, creator, request_id)
    life = secrets.randbits(_LIFE_BITS)
    return UUID(int=creator_part << 80 | _VERSION << 76 | life << 64 | 0b10 << 62 | request_part)


def request_key(provider: str, creator: str, request_id: str) -> str:
    """The key of the record of a request."""
    return _key(*_parts(provider, creator, request_id))


def key_of_id(action_id: str) -> str | None:
    """The key that an id leads to; None when it is an id of another kind."""
    try:
        number = UUID(action_id[-_UUID_LENGTH:])
    except ValueError:
        return None
    if number.version != _VERSION:
        return None
    return _key(number.int >> 80, number.int & ((1 << _REQUEST_BITS) - 1))


def old_request_key(provider: str, creator: str, request_id: str) -> str:
    """The key that a request's record has in the earlier layout."""
    return f"{_hash(creator).hex()}.{_hash(provider, request_id).hex()}"


def _key(creator_part: int, request_part: int) -> str:
    return f"a.{creator_part:012x}.{request_part:016x}"


@functools.lru_cache(maxsize=512)
def _parts(provider: str, creator: str, request_id: str) -> tuple[int, int]:
    creator_part = int.from_bytes(_hash(creator)) >> (128 - _CREATOR_BITS)
    return creator_part, int.from_bytes(_hash(provider, request_id)) >> (128 - _REQUEST_BITS)


def _hash(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()
