"""The queue of a subscription with flow control, as it lies in DELIVERIES: queued deliveries, and plans beside them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from headrace.bus import names
from headrace.bus.errors import BusError, BusUnavailable, DecodeError, RecordConflict
from headrace.bus.eventing.deliveries import Delivery, Waiting
from headrace.bus.eventing.flow.plans import Plan
from headrace.bus.nats import pages
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import EXPECTED_SEQUENCE_HEADER, Connection
from headrace.bus.store.streams import purge

logger = logging.getLogger(__name__)

_STREAM: Final = "DELIVERIES"
_STREAM_OF_TASKS: Final = "TASKS"
_PAGE_BYTES: Final = 4 * 1024 * 1024
_AT_ONCE: Final = 64
_PLANS: Final = 200
_OF_SUBJECTS: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_DONE_S: Final = 3600
"""So long it is known of a delivery that went in a batch that it is done: whoever queues it again repeats what he did
before a crash, within seconds."""
_ONLY_ONCE: Final = {EXPECTED_SEQUENCE_HEADER: "0"}


def group_of(subscription: UUID) -> UUID:
    """The group of a subscription's queued deliveries: their results are told to its holder, and to nobody else."""
    return UUID(bytes=hashlib.blake2b(subscription.bytes, digest_size=16, person=b"headrace flow").digest())


async def enqueue(connection: Connection, waiting: Waiting, endpoint: UUID) -> None:
    """Queue a delivery; returns when it is queued, now or before.

    Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`.
    """
    delivery = waiting.delivery
    subscription, bundle = delivery.subscription, delivery.bundle_id(endpoint)
    headers = {**_ONLY_ONCE, _OF_SUBJECTS: names.delivery_queued_subjects(subscription, bundle)}
    with contextlib.suppress(RecordConflict):  # it is queued already, or done
        await connection.store(names.delivery_queued_subject(subscription, bundle), waiting.encode(), headers=headers)


async def keep_plan(connection: Connection, subscription: UUID, plan: Plan) -> None:
    """Store a plan, unless it is. Raises as `enqueue` does."""
    with contextlib.suppress(RecordConflict):  # by somebody who repeats himself, or a try whose answer was lost
        subject = names.delivery_plan_subject(subscription, plan.name)
        await connection.store(subject, plan.encode(), headers=_ONLY_ONCE)


async def drop_plan(connection: Connection, subscription: UUID, plan: Plan) -> None:
    """Remove a plan; nothing happens when there is none. Raises `BusUnavailable`."""
    await purge(connection, _STREAM, names.delivery_plan_subject(subscription, plan.name))


async def running(connection: Connection, subscription: UUID, owner: str) -> set[str]:
    """The bundles (hex) of a subscription that are queued at an endpoint, or run there. Raises `BusUnavailable`."""
    pattern = f"task.*.*.{names.token(owner)}.{group_of(subscription).hex}.*"
    return {subject.rpartition(".")[2] async for subject in pages.subjects(connection, _STREAM_OF_TASKS, pattern)}


async def read_plans(connection: Connection, subscription: UUID, most: int | None = None) -> list[Plan]:
    """The plans of a subscription, or the first of them. Raises `BusUnavailable`."""
    plans: list[Plan] = []
    async for page in pages.messages(connection, _STREAM, names.plans_of(subscription), batch=_PLANS):
        for message in page:
            try:
                plans.append(Plan.decode(message.data))
            except DecodeError as error:
                logger.error("A plan cannot be read and is passed over: %s", error, extra={"action": "plan_unreadable"})
        if most is not None and len(plans) >= most:
            break
    return plans[:most]


async def read_queued(
    connection: Connection, subscription: UUID, *, after: int, most: int
) -> tuple[list[StoredMessage], int]:
    """What is queued behind a message of DELIVERIES, in the order of storing, and how many more there are.

    Raises `BusUnavailable`.
    """
    query = {
        "seq": after + 1,
        "next_by_subj": names.queued_of(subscription),
        "batch": most,
        "max_bytes": _PAGE_BYTES,
    }
    return await connection.read_many(_STREAM, query)


async def read_place(connection: Connection, place: int) -> Waiting | None:
    """One queued delivery; None when it is not queued any more. Raises `BusUnavailable` and `DecodeError`."""
    messages, _ = await connection.read_many(_STREAM, {"seq": place})
    if not messages or messages[0].sequence != place:
        return None
    return Waiting.decode(messages[0].data)


async def read_bundle(connection: Connection, subscription: UUID, bundle: UUID) -> tuple[int, Waiting] | None:
    """The queued delivery whose first bundle this is, and its message of DELIVERIES; None when there is none.

    Raises `BusUnavailable` and `DecodeError`.
    """
    message = await connection.read_last(_STREAM, names.delivery_queued_subject(subscription, bundle))
    return None if message is None else (message.sequence, Waiting.decode(message.data))


async def remove(connection: Connection, places: Iterable[int]) -> None:
    """Remove queued deliveries; those that are gone are passed over. Raises `BusUnavailable`."""
    waiting = list(places)
    for start in range(0, len(waiting), _AT_ONCE):
        await asyncio.gather(*(_remove(connection, place) for place in waiting[start : start + _AT_ONCE]))


async def depth(connection: Connection, subscription: UUID) -> int:
    """How many deliveries are queued, those that run among them. Raises `BusUnavailable`."""
    messages, more = await read_queued(connection, subscription, after=0, most=1)
    return len(messages) + more


async def note_done(connection: Connection, delivery: Delivery, endpoint: UUID) -> None:
    """Note that a delivery is done, before it is removed. Alone it has a bundle, whose result says so for as long as
    results are kept; in a batch it has none. Raises as `enqueue` does."""
    subject = names.delivery_done_subject(delivery.subscription, delivery.bundle_id(endpoint))
    await connection.store(subject, b"", headers={"Nats-TTL": f"{_DONE_S}s"})


async def queue_end(connection: Connection) -> int:
    """The last message of DELIVERIES. Raises `BusUnavailable`."""
    return int((await connection.api(f"STREAM.INFO.{_STREAM}"))["state"]["last_seq"])


async def _remove(connection: Connection, place: int) -> None:
    try:
        await connection.api(f"STREAM.MSG.DELETE.{_STREAM}", {"seq": place, "no_erase": True})
    except BusUnavailable:
        raise
    except BusError as error:
        logger.debug("Message %d of DELIVERIES is not there to be removed: %s", place, error)
