"""Cancelling on somebody's request: whether an endpoint is there decides what becomes of its running tasks."""

from __future__ import annotations

import functools

from headrace.action_provider.state import Service
from headrace.bus.names import Address
from headrace.bus.tasks.cancelling import REASONS, Cancelling


def cancelling_for(service: Service, *, force: bool, reasons: tuple[str, str] = REASONS) -> Cancelling:
    """One request's cancellation of tasks."""
    is_there = functools.partial(is_up, service)
    return Cancelling(service.connection, service.keys, force=force, is_up=is_there, reasons=reasons)


async def is_up(service: Service, address: Address) -> bool:
    """Whether the endpoint of a bundle gives signs of life, or its pool asks for work. Raises `BusUnavailable`."""
    if await service.tables.presence.is_online(address.endpoint):
        return True
    # Its manager may be unable to reach the service while its pool goes on.
    lane = await service.lanes.state(address.endpoint, address.pool, address.principal)
    return lane.requests > 0
