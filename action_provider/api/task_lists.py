"""Lists of the caller's tasks, a page at a time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.asked import identifier, number
from headrace.action_provider.api.task_documents import listed_document
from headrace.action_provider.errors import refused
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.bus.durations import parse_duration
from headrace.bus.tasks.bundles import STATES
from headrace.bus.tasks.listing import Marker, TaskQuery, list_tasks

_DEFAULT = 100
_MOST = 1000


async def list_page(call: Call) -> Response:
    """The caller's tasks: first what has no result, latest submitted first, then what has ended, latest first.

    A page may be short, even empty: there are more as long as it has a `marker`. A task that ends between two pages may
    be on both. Values and tracebacks are left out. Looking changes nothing.
    """
    query = task_query(call, principal=call.caller.principal, endpoint=identifier(call, "endpoint_id"))
    service = call.service
    page = await list_tasks(service.connection, service.keys, query, limit=asked_limit(call), marker=asked_marker(call))
    answer: dict[str, Any] = {"tasks": [listed_document(view) for view in page.tasks]}
    if page.marker is not None:
        answer["marker"] = str(page.marker)
    return reply(answer)


def task_query(call: Call, *, principal: str | None, endpoint: UUID | None) -> TaskQuery:
    """What a request's query parameters ask for. Raises `InvalidRequest`."""
    return TaskQuery(
        principal=principal,
        states=_states(call),
        endpoint=endpoint,
        function=identifier(call, "function_id"),
        group=identifier(call, "task_group_id"),
        since=_since(call),
    )


def _states(call: Call) -> frozenset[str]:
    given = call.query("state")
    if given is None:
        return frozenset(STATES)
    states = frozenset(given.split(","))
    if not states <= set(STATES):
        unknown = ", ".join(sorted(states - set(STATES)))[:80]
        raise refused("?state", f"{unknown!r} is not a state; there are {', '.join(STATES)}")
    return states


def _since(call: Call) -> float:
    given = call.query("since")
    if given is None:
        return 0.0
    try:
        return time.time() - parse_duration(given)
    except ValueError:
        pass
    try:
        # A plus sign in a query is a space.
        moment = datetime.fromisoformat(given.replace(" ", "+"))
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        problem = f"{given[:40]!r} is neither a time (2026-02-28T12:00:00Z) nor how long ago (90s, 15m, 12h, 7d)"
        raise refused("?since", problem) from None


def asked_limit(call: Call) -> int:
    """How many tasks a page may have. Raises `InvalidRequest`."""
    return number(call, "limit", default=_DEFAULT, most=_MOST)


def asked_marker(call: Call) -> Marker | None:
    """Where the page begins. Raises `InvalidRequest`."""
    given = call.query("marker")
    try:
        return None if given is None else Marker.of_text(given)
    except ValueError as error:
        raise refused("?marker", str(error)) from None


LIST_QUERY = (
    Query(name="state", description=f"Only these, with commas between them: {', '.join(STATES)}."),
    Query(name="endpoint_id", description="Only those of this endpoint."),
    Query(name="function_id", description="Only calls of this function."),
    Query(name="task_group_id", description="Only those of this group."),
    Query(
        name="since",
        description="Only what was stored, or has ended, since: a time (`2026-02-28T12:00:00Z`) or how long ago"
        " (`90s`, `15m`, `12h`, `7d`).",
    ),
    Query(name="limit", description=f"At most so many on this page; {_DEFAULT} by default, {_MOST} at most."),
    Query(name="marker", description="Where the page begins: the `marker` of the page before."),
)

ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/tasks",
        handler=list_page,
        summary="List your tasks, a page at a time",
        response_schema="task-list",
        query=LIST_QUERY,
    ),
)
