"""Many messages of one stream stored with one sync: all of them or none (NATS ADR-50).

Each batch costs the server two to three milliseconds of processor time beside that of its messages, for it makes a
store of the batch's own first: below some thirty messages one by one is cheaper.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from headrace.bus.clock import Deadline
from headrace.bus.errors import BatchRefused, BusUnavailable, RecordConflict
from headrace.bus.nats.answers import Stored, read_stored
from headrace.bus.nats.connection import Connection

MOST_AT_ONCE: Final = 1000
"""What the server takes in one batch."""

_ANSWER_WAIT_S = 5.0
_PAUSE_S = 0.05

# A condition that no stream fulfils, and that the server looks at after it has looked for a repeated message.
_NOBODYS_ID = "headrace asks"

NewMessage = tuple[str, bytes, dict[str, str]]
"""Subject, payload and headers."""


async def store_all_or_none(
    connection: Connection, messages: Sequence[NewMessage], *, timeout_s: float = 30.0
) -> list[Stored]:
    """Store up to 1 000 messages of one stream in this order; gives the place of each.

    Each must have a message id of its own among its headers. Those that were there before are known by it, and the
    others are stored together: whatever breaks, whoever reads the stream finds all of the new ones, or none. Only for
    streams that allow it.

    Raises what `Connection.store` raises; after `BusUnavailable` they are stored, or not, and storing them again is
    safe.
    """
    stored: dict[int, Stored] = {}
    deadline, problem = Deadline(timeout_s), ""
    while True:
        left = [place for place in range(len(messages)) if place not in stored]
        if not left:
            return [stored[place] for place in range(len(messages))]
        try:
            last = await commit(connection, [messages[place] for place in left])
            stored |= {place: Stored(last.sequence - ahead) for ahead, place in enumerate(reversed(left))}
            continue
        except BusUnavailable as error:
            problem = str(error)  # nobody knows whether it is stored: the next try is then refused, and tells
        except BatchRefused as error:
            problem = str(error)
            with contextlib.suppress(BusUnavailable):
                there = await _there(connection, messages, left)
                stored |= there
                if there:
                    continue
        if deadline.passed:
            raise BusUnavailable(f"a batch could not be stored within {timeout_s:g} s: {problem}")
        with contextlib.suppress(BusUnavailable):
            await connection.wait_connected(deadline.cut(_ANSWER_WAIT_S))
        await asyncio.sleep(_PAUSE_S)


async def commit(connection: Connection, messages: Sequence[NewMessage]) -> Stored:
    """Store up to 1 000 messages of one stream in this order, by one try; the place of the last. None of them is stored
    when one is refused.

    Raises what `Connection.store` raises, `BatchRefused` when one is there already, or the server has no room for
    batches at this moment, and `BusUnavailable` when nobody knows whether they are stored.
    """
    if len(messages) == 1:
        subject, payload, headers = messages[0]
        return await connection.store(subject, payload, headers=headers, timeout_s=_ANSWER_WAIT_S)
    batch = {"Nats-Batch-Id": uuid.uuid4().hex}
    *first, (subject, payload, headers) = messages
    for number, (each, data, own) in enumerate(first, 1):
        await connection.publish(each, data, headers={**own, **batch, "Nats-Batch-Sequence": str(number)})
    last = {**headers, **batch, "Nats-Batch-Sequence": str(len(messages)), "Nats-Batch-Commit": "1"}
    return read_stored(await connection.request(subject, payload, headers=last, timeout_s=_ANSWER_WAIT_S), subject)


async def _there(connection: Connection, messages: Sequence[NewMessage], places: Iterable[int]) -> dict[int, Stored]:
    """Which of the messages are in the stream already, known by their ids. Nothing is stored by asking."""

    async def ask(place: int) -> tuple[int, Stored | None]:
        subject, _, headers = messages[place]
        question = {**headers, "Nats-Expected-Last-Msg-Id": _NOBODYS_ID}
        answer = await connection.request(subject, b"", headers=question, timeout_s=_ANSWER_WAIT_S)
        with contextlib.suppress(RecordConflict):
            return place, read_stored(answer, subject)
        return place, None

    answers = await asyncio.gather(*map(ask, places))
    return {place: stored for place, stored in answers if stored is not None}
