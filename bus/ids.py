"""Ids of tasks and bundles.

A task id is a UUIDv8 (RFC 9562):

    48 bits  milliseconds since 1970 (a hint for people, never trusted)
     4 bits  version 8
    12 bits  a tag of the endpoint
     2 bits  variant
    46 bits  random
    16 bits  the task's index in its bundle

Without the index (index 0) it is the bundle's id, so a task id leads to its bundle without a table.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any
from uuid import UUID, SafeUUID

MOST_TASKS_PER_BUNDLE = 1 << 16

_DAY_S = 86_400.0
_RANDOM_BITS = 46
_INDEX_BITS = 16
_KIND_BITS = 0xF << 76 | 3 << 62
_TASK_KIND = 8 << 76 | 2 << 62


def new_bundle_id(endpoint: UUID) -> UUID:
    """A new bundle id for this endpoint."""
    return _compose(endpoint, time.time_ns() // 1_000_000, int.from_bytes(os.urandom(6), "big"))


def repeatable_bundle_id(endpoint: UUID, unix_ms: int, *origin: str) -> UUID:
    """The bundle id that belongs to `origin`: the same arguments give the same id, for work that may be repeated."""
    digest = hashlib.blake2b("\x00".join(origin).encode(), digest_size=6).digest()
    return _compose(endpoint, unix_ms, int.from_bytes(digest, "big"))


def task_id(bundle: UUID, index: int) -> UUID:
    """The id of a bundle's task. Raises `ValueError` when the index does not fit in 16 bits."""
    if not 0 <= index < MOST_TASKS_PER_BUNDLE:
        raise ValueError(f"task index {index} is not in 0..{MOST_TASKS_PER_BUNDLE - 1}")
    return _uuid(bundle.int | index)


def split_task_id(task: UUID) -> tuple[UUID, int]:
    """The bundle's id and the task's index. Raises `ValueError` when this is not the id of a task."""
    number = task.int
    if number & _KIND_BITS != _TASK_KIND:
        raise ValueError(f"{task} is not the id of a task (UUID version 8)")
    index = number & (MOST_TASKS_PER_BUNDLE - 1)
    return _uuid(number ^ index), index


def fits_endpoint(task: UUID, endpoint: UUID) -> bool:
    """Whether a task may be at this endpoint: its id holds 12 bits of the endpoint's."""
    return (task.int >> 64) & 0xFFF == endpoint.int & 0xFFF


def submitted_at(task: UUID, stored_at: float = 0.0) -> float:
    """When the id was made: unix seconds, by the clock of whoever submitted the task.

    Where `stored_at` is known and the id's time cannot belong to it, it is `stored_at`: in the id of a delivery these
    bits follow from the event, and are no time.
    """
    made_at = (task.int >> 80) / 1000
    # A client may have been away for weeks between the two; clocks go wrong by less than a day.
    believable = not stored_at or stored_at - 31 * _DAY_S < made_at < stored_at + _DAY_S
    return made_at if believable else stored_at


# A pool makes several ids for each task. UUID's own constructor tries six forms of arguments and checks a number that
# is known to be good: it takes five times as long as this. (Its fields are slots; assigning to a UUID is refused.)
_new: Any = UUID.__new__
_set_int: Any = UUID.__dict__["int"].__set__
_set_is_safe: Any = UUID.__dict__["is_safe"].__set__


def _uuid(number: int) -> UUID:
    made: UUID = _new(UUID)
    _set_int(made, number)
    _set_is_safe(made, SafeUUID.unknown)
    return made


def _compose(endpoint: UUID, unix_ms: int, random: int) -> UUID:
    tag = endpoint.int & 0xFFF
    value = (unix_ms & (1 << 48) - 1) << 80 | 8 << 76 | tag << 64 | 2 << 62
    return UUID(int=value | (random & (1 << _RANDOM_BITS) - 1) << _INDEX_BITS)
