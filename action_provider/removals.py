"""What ends together with an endpoint or a user: their queued tasks, visibly, and not only those of this moment.

A removal leaves a record for an hour. What is queued is ended when the endpoint or user is removed and again and again
while the record is there, since that may take long or be cut short, and somebody may be storing a bundle just now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final
from uuid import UUID

from headrace.action_provider.auth.withdrawal import end_sessions
from headrace.action_provider.state import Service
from headrace.bus.errors import BusError
from headrace.bus.eventing.schedules.keeping import remove_schedule
from headrace.bus.eventing.subscription_keeping import remove_subscription
from headrace.bus.names import Address, token
from headrace.bus.store.models import EndpointRecord, RemovalRecord
from headrace.bus.store.streams import purge
from headrace.bus.tasks.cancelling import Cancelling

logger = logging.getLogger(__name__)

_AT_ONCE_S = 10.0
_AGAIN_S = 5.0
_KEPT_S = 3600.0
_WHY: Final = {
    "endpoint": ("the endpoint was deleted before the task started", "the endpoint was deleted while the task ran"),
    "user": (
        "the user who submitted the task was removed before it started",
        "the user who submitted the task was removed, and its endpoint is lost",
    ),
}


async def end_tasks_of_endpoint(service: Service, endpoint: EndpointRecord) -> None:
    """End everything that is queued for an endpoint that is there no more. Raises `BusUnavailable`."""
    await _remember(service, RemovalRecord(kind="endpoint", subject=endpoint.endpoint_id.hex, removed_at=time.time()))


async def end_tasks_of_user(service: Service, principal: str) -> None:
    """Cancel everything that a user who is there no more has queued; what runs goes on. Raises `BusUnavailable`."""
    await end_sessions(service.tables, lambda session: session.principal == principal)
    await _remember(service, RemovalRecord(kind="user", subject=token(principal), removed_at=time.time()))


async def is_back(service: Service, endpoint_id: UUID) -> None:
    """An endpoint is registered again under its id: from here on its tasks are not ended any more."""
    await service.tables.removals.delete(f"endpoint-{endpoint_id.hex}")


async def end_subscriptions_of(service: Service, principal: str) -> None:
    """Remove the subscriptions of a user, with the deliveries that wait. Raises `BusUnavailable`."""
    for record in await service.tables.subscriptions.list():
        if record.value.owner == principal:
            await remove_subscription(service.connection, service.tables, record.value)


async def end_schedules_of(service: Service, principal: str) -> None:
    """Remove the schedules of a user. Raises `BusUnavailable`."""
    for record in await service.tables.schedules.list():
        if record.value.owner == principal:
            await remove_schedule(service.tables, record.value.schedule_id)


async def end_hooks_of(service: Service, principal: str) -> None:
    """Remove the webhooks of a user: what is sent to them is refused from now on. Raises `BusUnavailable`."""
    for record in await service.tables.hooks.list():
        if record.value.owner == principal:
            await service.tables.hooks.delete(record.key)


async def end_feeds_of(service: Service, principal: str) -> None:
    """Remove the feeds of a user: messages of other systems are not taken in their name any more. Raises
    `BusUnavailable`."""
    for record in await service.tables.feeds.list():
        if record.value.owner == principal:
            await service.tables.feeds.delete(record.key)


async def keep_removing(service: Service) -> None:
    """Work off the records of removals until cancelled."""
    while True:
        await asyncio.sleep(_AGAIN_S)
        try:
            for record in await service.tables.removals.list():
                await _end_tasks(service, record.value, within_s=60.0)
        except BusError as error:
            logger.warning(
                "Tasks of what was removed could not be ended (%s); trying again.",
                error,
                extra={"action": "removal_delayed"},
            )


async def _remember(service: Service, removal: RemovalRecord) -> None:
    # Stored first: whatever happens to us, the tasks end.
    await service.tables.removals.put(f"{removal.kind}-{removal.subject}", removal, ttl_s=_KEPT_S)
    await _end_tasks(service, removal, within_s=_AT_ONCE_S)


async def _end_tasks(service: Service, removal: RemovalRecord, *, within_s: float) -> None:
    connection, gone = service.connection, removal.kind == "endpoint"
    pattern = f"task.{removal.subject}.>" if gone else f"task.*.*.{removal.subject}.>"

    async def is_up(address: Address) -> bool:
        return not gone and await service.tables.presence.is_online(address.endpoint)

    end = (await connection.api("STREAM.INFO.TASKS"))["state"]["last_seq"]
    cancelling = Cancelling(connection, service.keys, force=False, is_up=is_up, reasons=_WHY[removal.kind])
    rest = await cancelling.everything(pattern, within_s=within_s)
    if rest is None and gone:
        # What is left up to there are messages that nobody believes.
        await purge(connection, "TASKS", pattern, before=end + 1)
    ended = sum(cancelling.states.values()) - len(cancelling.running)
    if ended:
        logger.info(
            "Ended %d tasks: the %s is there no more.",
            ended,
            removal.kind,
            extra={"action": "tasks_ended", "count": ended, "kind": removal.kind},
        )
