"""Pools that users' options ask for: managers hear which are wanted, and say what became of them."""

from __future__ import annotations

import time
from typing import Any

from starlette.responses import Response

from headrace.action_provider.api.access import own_endpoint
from headrace.action_provider.auth.pool_token import PoolToken
from headrace.action_provider.errors import NotFound
from headrace.action_provider.http import WAIT, Call, Operation, Query, no_content, reply
from headrace.bus.store.models import EndpointRecord, PoolRecord, PoolReport


async def list_wanted(call: Call) -> Response:
    """The pools that this manager is to have running and has not answered for; waits until there is one."""
    endpoint = await own_endpoint(call)
    manager, restarted = call.query("manager") or "", call.query("restarted") == "true"

    def wanted() -> list[PoolRecord]:
        known = (each.value for each in call.service.pools.of(endpoint.endpoint_id))
        return [each for each in known if each.wanted_of(manager, restarted=restarted)]

    wait_s = call.wait_s()
    if wait_s > 0 and not wanted():
        ended = await call.unless_stopping(call.service.pools.until(lambda: bool(wanted()), wait_s))
        if ended is None and not call.service.stopping.is_set():  # the manager has gone, or its connection
            await call.service.tables.presence.doubt(
                endpoint.endpoint_id, manager, ttl_s=call.service.settings.presence_ttl_s
            )
    return reply({"pools": [_described(call, endpoint, each) for each in wanted()]})


async def report(call: Call) -> Response:
    """Keep what a manager says of a pool."""
    endpoint, pool, body = await own_endpoint(call), call.path("pool"), call.body
    said = PoolReport(
        manager=body["manager"],
        state=body["state"],
        answers=body["answers"],
        at=time.time(),
        problem=body.get("problem") or "",
        code=body.get("code") or "",
    )
    if await call.service.pools.report(endpoint.endpoint_id, pool, said) is None:
        raise NotFound(f"nobody has asked for a pool {pool!r} of endpoint {endpoint.endpoint_id} for a long time")
    return no_content()


def _described(call: Call, endpoint: EndpointRecord, pool: PoolRecord) -> dict[str, Any]:
    token = PoolToken(endpoint_id=endpoint.endpoint_id, pool=pool.pool, token_id=endpoint.token_id)
    return {
        "pool": pool.pool,
        "principal": pool.principal,
        "accounts": pool.accounts,
        "user_endpoint_config": pool.options,
        "environment": pool.environment,
        "runtime": pool.runtime,
        "wanted": pool.wanted,
        "pool_token": token.text(call.service.keys),
    }


ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/endpoints/{endpoint_id}/wanted-pools",
        handler=list_wanted,
        summary="The pools that users' configurations ask for; waits until there is one",
        auth="endpoint",
        response_schema="wanted-pools",
        query=(
            Query(name="manager", description="Which of the endpoint's managers asks.", required=True),
            Query(
                name="restarted",
                description="With `true` the pools are listed as well that this manager ran when it was last heard of.",
            ),
            WAIT,
        ),
        may_wait=True,
    ),
    Operation(
        method="POST",
        path="/api/v1/endpoints/{endpoint_id}/pools/{pool}/reports",
        handler=report,
        summary="Say what became of a pool that was wanted",
        auth="endpoint",
        request_schema="pool-report",
        status=204,
    ),
)
