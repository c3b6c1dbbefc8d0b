"""The tasks of an endpoint, whoever submitted them: for its owner, and for the endpoint itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.access import own_endpoint
from headrace.action_provider.api.task_documents import listed_document
from headrace.action_provider.api.task_lists import LIST_QUERY, asked_limit, asked_marker, task_query
from headrace.action_provider.cancelling import cancelled, cancelling_for
from headrace.action_provider.errors import InvalidRequest, refused
from headrace.action_provider.http import Call, Operation, reply
from headrace.bus.names import token
from headrace.bus.tasks.listing import list_tasks
from headrace.bus.tasks.task_views import TaskView
from headrace.schemas import Violation

_REASONS = (
    "the owner of the endpoint cancelled the task before it started",
    "the owner of the endpoint cancelled the task after the endpoint was lost",
)
_SELECTIONS = ("task_ids", "principal", "pool", "everything")


async def list_page(call: Call) -> Response:
    """The tasks at an endpoint: first what has no result, latest submitted first, then what has ended.

    What functions returned, or raised, is for those who submitted them.
    """
    endpoint = await own_endpoint(call)
    query = task_query(call, principal=None, endpoint=endpoint.endpoint_id)
    service = call.service
    page = await list_tasks(service.connection, service.keys, query, limit=asked_limit(call), marker=asked_marker(call))
    answer: dict[str, Any] = {"tasks": [_document(view) for view in page.tasks]}
    if page.marker is not None:
        answer["marker"] = str(page.marker)
    return reply(answer)


async def cancel(call: Call) -> Response:
    """Cancel tasks at an endpoint: those that are named, or all of a principal, of a pool, or of everybody."""
    endpoint, body = await own_endpoint(call), call.body
    _check_selection(body)
    cancelling = cancelling_for(call.service, force=bool(body.get("force")), reasons=_REASONS)
    go_on: int | None = None
    if "task_ids" in body:
        try:
            await cancelling.tasks_at(endpoint.endpoint_id, [UUID(each) for each in body["task_ids"]])
        except ValueError as error:
            raise refused("/task_ids", str(error)) from None
    else:
        pool, principal = (token(body[name]) if name in body else "*" for name in ("pool", "principal"))
        go_on = await cancelling.everything(
            f"task.{endpoint.endpoint_id.hex}.{pool}.{principal}.*.*",
            start=body.get("after", 0) + 1,
            within_s=call.service.settings.request_timeout_s / 2,
        )
    return cancelled(cancelling, go_on, endpoint_id=endpoint.endpoint_id)


def _check_selection(body: dict[str, Any]) -> None:
    """Nobody shall cancel everything by leaving something out."""
    chosen = [name for name in _SELECTIONS if body.get(name)]
    if not chosen:
        raise InvalidRequest(f"say which tasks: give {', '.join(_SELECTIONS[:-1])} or {_SELECTIONS[-1]}")
    alone = {"task_ids", "everything"} & set(chosen)
    if alone and len(chosen) > 1:
        name = min(alone)
        problem = f"cannot stand beside {', '.join(each for each in chosen if each != name)}"
        raise InvalidRequest(f"{name} {problem}", violations=(Violation(pointer=f"/{name}", problem=problem),))


def _document(view: TaskView) -> dict[str, Any]:
    document = {**listed_document(view), "principal": view.address.principal}
    if "error" in document:
        document["error"] = {name: document["error"][name] for name in ("code", "type")}
    return document


_PATH = "/api/v1/endpoints/{endpoint_id}/tasks"

ROUTES = (
    Operation(
        method="GET",
        path=_PATH,
        handler=list_page,
        summary="List the tasks at an endpoint of yours, whoever submitted them, a page at a time",
        response_schema="endpoint-task-list",
        auth="either",
        query=tuple(each for each in LIST_QUERY if each.name != "endpoint_id"),
    ),
    Operation(
        method="POST",
        path=f"{_PATH}/cancel",
        handler=cancel,
        summary="Cancel tasks at an endpoint of yours, whoever submitted them",
        request_schema="endpoint-task-cancellation",
        response_schema="endpoint-tasks-cancelled",
        status=202,
        auth="either",
    ),
)
