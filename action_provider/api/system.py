"""The service about itself: health, metrics, schemas, its own description."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from headrace.action_provider.errors import NotFound, Unavailable
from headrace.action_provider.http import Call, Operation, reply
from headrace.action_provider.metrics import CONTENT_TYPE
from headrace.action_provider.protocol import PROTOCOL, service_version
from headrace.bus.errors import BusError
from headrace.schemas import schema, schema_names

_READY_WITHIN_S = 2.0
_NEEDED_STREAMS = ("TASKS", "RESULTS", "KV_tokens")


async def healthz(call: Call) -> Response:
    """The process is alive."""
    return reply({"status": "ok", "service_version": service_version(), "protocol": PROTOCOL})


async def readyz(call: Call) -> Response:
    """The bus answers, and its streams are there."""
    connection = call.service.connection
    if call.service.stopping.is_set():
        raise Unavailable("the service is stopping")
    if not connection.connected:
        raise Unavailable("the message bus is not connected; trying for ever")
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            for stream in _NEEDED_STREAMS:
                await connection.api(f"STREAM.INFO.{stream}", timeout_s=_READY_WITHIN_S)
    except (BusError, TimeoutError):
        raise Unavailable("the message bus is connected, but its streams do not answer") from None
    return reply({"status": "ready", "service_version": service_version(), "protocol": PROTOCOL})


async def metrics(call: Call) -> Response:
    """Prometheus's text format."""
    return Response(call.service.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


async def list_schemas(call: Call) -> Response:
    """The names of all schemas."""
    return reply({"schemas": schema_names()})


async def get_schema(call: Call) -> Response:
    """One JSON schema; `.json` behind the name is taken as well, since that is how schemas refer to each other."""
    name = call.path("name").removesuffix(".json")
    if name not in schema_names():
        raise NotFound(f"there is no schema {name[:80]!r}; /schemas lists them")
    return Response(reply(schema(name)).body, media_type="application/schema+json")


ROUTES = (
    Operation(
        method="GET",
        path="/healthz",
        handler=healthz,
        summary="Whether the process is alive",
        auth="none",
        response_schema="health",
        any_query=True,
    ),
    Operation(
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="Whether the bus answers and its streams are there",
        auth="none",
        response_schema="health",
        any_query=True,
    ),
    Operation(
        method="GET",
        path="/metrics",
        handler=metrics,
        summary="Metrics in Prometheus's text format",
        auth="none",
        response_type="text/plain",
        any_query=True,
    ),
    Operation(
        method="GET",
        path="/schemas",
        handler=list_schemas,
        summary="List the JSON schemas",
        auth="none",
        response_schema="schema-list",
    ),
    Operation(
        method="GET",
        path="/schemas/{name}",
        handler=get_schema,
        summary="Read a JSON schema",
        auth="none",
        response_type="application/schema+json",
    ),
)
