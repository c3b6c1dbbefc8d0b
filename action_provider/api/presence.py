"""Presence: a manager's sign of life. The record goes away by itself when the signs stop."""

from __future__ import annotations

import time

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import own_endpoint
from headrace.action_provider.http import Call, Operation, Query, no_content
from headrace.bus.names import NEXT_SIGN_HEADER
from headrace.bus.store.models import MachineLoad, PoolPresence, PresenceRecord


async def tell(call: Call) -> Response:
    """Store the sign of life. An empty list of pools is a manager that has just come, or is about to go.

    `Headrace-Next-Sign` in the answer is how many seconds later the next one is expected; longer after one that says
    that it is `quiet` there.
    """
    endpoint = await own_endpoint(call)
    body, settings = call.body, call.service.settings
    quiet = bool(body.get("quiet"))
    ttl_s = settings.presence_quiet_ttl_s if quiet else settings.presence_ttl_s
    record = PresenceRecord(
        endpoint_id=endpoint.endpoint_id,
        host=body["host"],
        python_version=body["python_version"],
        headrace_version=body["headrace_version"],
        seen_at=time.time(),
        pools=msgspec.convert(body["pools"], tuple[PoolPresence, ...]),
        manager=body.get("manager", ""),
        load=msgspec.convert(body["load"], MachineLoad) if "load" in body else None,
        quiet=quiet,
    )
    await call.service.tables.presence.tell(record, ttl_s=ttl_s)
    answer = no_content()
    answer.headers[NEXT_SIGN_HEADER] = f"{ttl_s / 3:g}"
    return answer


async def end(call: Call) -> Response:
    """Say that a manager stops, so that the endpoint is seen as offline at once if it was the last one."""
    endpoint = await own_endpoint(call)
    manager = call.query("manager") or ""
    await call.service.tables.presence.end(endpoint.endpoint_id, manager)
    await call.service.pools.left(endpoint.endpoint_id, manager)
    return no_content()


_PATH = "/api/v1/endpoints/{endpoint_id}/presence"

ROUTES = (
    Operation(
        method="PUT",
        path=_PATH,
        handler=tell,
        summary="Tell that the endpoint is alive",
        auth="endpoint",
        request_schema="presence",
        status=204,
    ),
    Operation(
        method="DELETE",
        path=_PATH,
        handler=end,
        summary="Tell that the endpoint's manager stops",
        auth="endpoint",
        status=204,
        query=(Query(name="manager", description="Which of the endpoint's managers it is."),),
    ),
)
