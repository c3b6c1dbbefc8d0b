"""Cancelling on somebody's request: whether an endpoint is there decides what becomes of its running tasks."""

from __future__ import annotations

import functools
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.http import reply
from headrace.action_provider.state import Service
from headrace.bus.names import Address
from headrace.bus.tasks.cancelling import REASONS, UNKNOWN, Cancelling

_MOST_NAMED: Final = 10_000
"""How many tasks that go on the answer to a cancellation of a group names."""


def cancelling_for(service: Service, *, force: bool, reasons: tuple[str, str] = REASONS) -> Cancelling:
    """One request's cancellation of tasks."""
    is_there = functools.partial(is_up, service)
    return Cancelling(service.connection, service.keys, force=force, is_up=is_there, reasons=reasons)


def cancelled(cancelling: Cancelling, go_on: int | None, **whose: UUID) -> Response:
    """What a request's cancellation found: of `whose` tasks, and from where to `go_on` when that were not all."""
    answer: dict[str, Any] = {
        **whose,
        "found": cancelling.states.total() - cancelling.states[UNKNOWN],
        "states": dict(sorted(cancelling.states.items())),
        "running": cancelling.running[:_MOST_NAMED],
    }
    if go_on is not None:
        answer["after"] = go_on - 1
    return reply(answer, 202 if cancelling.running or go_on else 200)


async def is_up(service: Service, address: Address) -> bool:
    """Whether the endpoint of a bundle gives signs of life, or its pool asks for work. Raises `BusUnavailable`."""
    if await service.tables.presence.is_online(address.endpoint):
        return True
    # Its manager may be unable to reach the service while its pool goes on.
    lane = await service.lanes.state(address.endpoint, address.pool, address.principal)
    return lane.requests > 0
