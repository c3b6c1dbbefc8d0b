"""The stored results of many bundles, in as few reads as the server allows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from headrace.bus.errors import BusError, BusUnavailable, DecodeError
from headrace.bus.names import ResultAddress
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.results import ResultCollector, stored_part

logger = logging.getLogger(__name__)

_MOST_BUNDLES = 100
_MOST_PARTS = 1000
"""Hardly more subjects are given in one answer."""


async def catch_up(connection: Connection, collectors: Sequence[ResultCollector]) -> None:
    """Read what is stored of these bundles beyond the parts that are known; of a hundred bundles in one read.

    Only for the service's account. Raises `BusUnavailable` and `DecodeError`.
    """
    waiting = [each for each in collectors if not each.complete]
    if len(waiting) == 1:
        # A read of one part needs no inbox of its own, and the first part is mostly the last.
        await waiting[0].catch_up(connection)
        return
    for start in range(0, len(waiting), _MOST_BUNDLES):
        await _read(connection, waiting[start : start + _MOST_BUNDLES])


async def _read(connection: Connection, collectors: Sequence[ResultCollector]) -> None:
    by_bundle = {each.address.bundle: each for each in collectors}
    subjects = [f"{each.address.result_subject(0).rpartition('.')[0]}.*" for each in collectors]
    try:
        messages, pending = await connection.read_many("RESULTS", {"multi_last": subjects, "batch": _MOST_PARTS})
    except (BusUnavailable, DecodeError):
        raise
    except BusError:
        messages, pending = [], 1
    if pending:
        # More parts than one answer has: those of half of the bundles, or of one, a part after the other.
        half = len(collectors) // 2
        if half:
            await _read(connection, collectors[:half])
            await _read(connection, collectors[half:])
        else:
            await collectors[0].catch_up(connection)
        return
    for message in messages:
        bundle = by_bundle[ResultAddress.of_subject(message.subject).bundle]
        bundle.add(stored_part(message, bundle.result_key))
