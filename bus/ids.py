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
from uuid import UUID

MOST_TASKS_PER_BUNDLE = 1 << 16

_RANDOM_BITS = 46
_INDEX_BITS = 16


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
    return UUID(int=bundle.int | index)


def split_task_id(task: UUID) -> tuple[UUID, int]:
    """The bundle's id and the task's index. Raises `ValueError` when this is not the id of a task."""
    if task.version != 8:
        raise ValueError(f"{task} is not the id of a task (UUID version 8)")
    index = task.int & (MOST_TASKS_PER_BUNDLE - 1)
    return UUID(int=task.int ^ index), index


def submitted_at(task: UUID) -> float:
    """When the id was made: unix seconds, by the clock of whoever submitted the task."""
    return (task.int >> 80) / 1000


def _compose(endpoint: UUID, unix_ms: int, random: int) -> UUID:
    tag = endpoint.int & 0xFFF
    value = (unix_ms & (1 << 48) - 1) << 80 | 8 << 76 | tag << 64 | 2 << 62
    return UUID(int=value | (random & (1 << _RANDOM_BITS) - 1) << _INDEX_BITS)
