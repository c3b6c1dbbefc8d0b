"""Queues: how much is unfinished at an endpoint, and how much more there is room for."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from headrace.action_provider.api.access import seen_endpoint
from headrace.action_provider.http import Call, Operation, reply


async def queue(call: Call) -> Response:
    """What you have unfinished at an endpoint, in bundles; its owner, and itself, also see what everybody has."""
    service, caller = call.service, call.caller
    endpoint = await seen_endpoint(service, caller, call.path_id("endpoint_id"))
    standing = await service.backlog.standing(endpoint, caller.principal)
    answer: dict[str, Any] = {"endpoint_id": endpoint.endpoint_id, "own": standing.document()}
    if caller.endpoint_id is None and not caller.is_(endpoint.owner):
        return reply(answer)
    depths = await service.lanes.depths(endpoint.endpoint_id)
    busy = sorted(((depth, principal) for principal, depth in depths.items() if depth.used), key=_most_first)
    return reply(
        {
            **answer,
            "bundles": endpoint.queue_limits.bundles,
            "bundles_per_principal": service.backlog.limit_of(endpoint),
            "used": sum(depth.used for depth in depths.values()),
            "principals": [
                {"principal": principal, "waiting": depth.waiting, "taken": depth.taken} for depth, principal in busy
            ],
        }
    )


def _most_first(each: tuple[Any, str]) -> tuple[int, str]:
    depth, principal = each
    return -depth.used, principal


ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/endpoints/{endpoint_id}/queue",
        handler=queue,
        summary="How much is unfinished at an endpoint, and how much more there is room for",
        response_schema="endpoint-queue",
        auth="either",
    ),
)
