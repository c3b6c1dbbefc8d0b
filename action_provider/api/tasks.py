"""Tasks for those who speak JSON: submit, invoke, look, wait, cancel."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import (
    check_allowed,
    chosen_endpoint,
    endpoint_for,
    function_for,
)
from headrace.action_provider.api.objects import answer_with
from headrace.action_provider.api.task_documents import located_document, task_document
from headrace.action_provider.cancelling import cancelled, cancelling_for, is_up
from headrace.action_provider.errors import Conflict, InvalidRequest, NotFound, refused
from headrace.action_provider.http import WAIT, Operation, reply
from headrace.action_provider.http import Call as Request
from headrace.action_provider.wishes import environment_of, pool_for
from headrace.bus.data.encodings import JSON
from headrace.bus.ids import task_id
from headrace.bus.store.models import EndpointRecord
from headrace.bus.tasks import submission, task_views
from headrace.bus.tasks.bundles import TaskOptions, TaskResult
from headrace.bus.tasks.endings import end_unstarted, ended
from headrace.bus.tasks.options import of_document, waited_too_long
from headrace.bus.tasks.plain_results import plain_result
from headrace.bus.tasks.results import ResultCollector, ResultWatch
from headrace.bus.tasks.submission import Call, Plan, Submission
from headrace.bus.tasks.task_views import TaskView
from headrace.schemas import Violation

_INVOKE_WAIT_S = 5.0
_CALL = ("function_id", "args", "kwargs")


async def submit(call: Request) -> Response:
    """Submit one call or many to an endpoint. With `wait` the answer has what has ended by then."""
    body = call.body
    endpoint = await endpoint_for(call.service, call.caller, call.path_id("endpoint_id"))
    calls = _calls(body)
    group = UUID(body["task_group_id"]) if body.get("task_group_id") else uuid.uuid4()
    wait_s = call.wait_s(body.get("wait"))
    plan, results = await _run(call, endpoint, calls, group, wait_s)
    tasks = [task_document(view) for view in await _views(call, plan, results, waited=wait_s > 0)]
    answer = {"task_group_id": group, "endpoint_id": endpoint.endpoint_id, "tasks": tasks}
    return reply(answer, 200 if all(results) else 202)


async def invoke(call: Request) -> Response:
    """Call a function and wait for its value (five seconds, where `wait` does not say otherwise)."""
    body = call.body or {}
    named = UUID(body["endpoint_id"]) if body.get("endpoint_id") else None
    endpoint = await chosen_endpoint(call.service, call.caller, named)
    calls = [_call({**body, "function_id": str(call.path_id("function_id"))})]
    wait_s = call.wait_s(body.get("wait"), default=_INVOKE_WAIT_S)
    plan, results = await _run(call, endpoint, calls, uuid.uuid4(), wait_s)
    view = (await _views(call, plan, results, waited=wait_s > 0))[0]
    return reply(located_document(view), 202 if results[0] is None else 200)


async def get_task(call: Request) -> Response:
    """One task of the caller's; with `wait` the answer comes when it ends, or when the time is over."""
    wait_s = call.wait_s()
    view = await find_task(call)
    if view.result is None and wait_s > 0:
        view = await call.unless_stopping(_awaited(call, view, wait_s)) or view
    return reply(located_document(view))


async def get_result(call: Request) -> Response:
    """The value of a task alone, as JSON, however large it is: where `result_reference` points to."""
    view = await find_task(call)
    if view.result is None:
        raise Conflict(f"task {view.task_id} has no result yet: it is {view.state}")
    plain = plain_result(view.result)
    if plain.reference is not None:
        return await answer_with(call, call.caller.principal, plain.reference.digest, "application/json")
    if plain.error is not None:
        raise Conflict(f"task {view.task_id} has no value: it is {view.state}, {plain.error['code']}")
    if plain.python_object:
        raise Conflict(plain.python_object)
    if view.result.encoding == JSON:
        # As it is stored, so that it has the size and the digest that were told.
        return Response(view.result.value, media_type="application/json")
    return reply(plain.value)


async def get_group(call: Request) -> Response:
    """All tasks of one of the caller's groups that are queued or have results."""
    group, service = call.path_id("task_group_id"), call.service
    views = await task_views.find_group(service.connection, service.keys, call.caller.principal, group)
    if not views:
        raise NotFound(f"there is no task group {group} of yours, or all its results have expired")
    tasks = [{**located_document(view), "bundle": view.address.bundle, "index": view.index} for view in views]
    return reply({"task_group_id": group, "tasks": tasks})


async def cancel(call: Request) -> Response:
    """Ask for a task's cancellation: it does not start any more, and with `force` it is stopped while it runs."""
    view = await find_task(call)
    if view.result is None:
        cancelling = cancelling_for(call.service, force=bool((call.body or {}).get("force")))
        view = (await cancelling.in_bundle([view], dated=True))[0]
    return reply(located_document(view), 202 if view.result is None else 200)


async def cancel_group(call: Request) -> Response:
    """Cancel tasks of one of the caller's groups, those that are named or all: as if each were cancelled by itself.

    A group of which nothing is queued is no error: what has ended is not counted here, so that cancelling twice is
    well, and a group that never was looks the same. `found` says how many tasks there were to cancel.
    """
    group, body = call.path_id("task_group_id"), call.body or {}
    cancelling = cancelling_for(call.service, force=bool(body.get("force")))
    principal = call.caller.principal
    go_on: int | None = None
    if "task_ids" in body:
        try:
            await cancelling.tasks(principal, group, [UUID(each) for each in body["task_ids"]])
        except ValueError as error:
            raise refused("/task_ids", str(error)) from None
    else:
        budget_s = call.service.settings.request_timeout_s / 2
        go_on = await cancelling.group(principal, group, start=body.get("after", 0) + 1, within_s=budget_s)
    return cancelled(cancelling, go_on, task_group_id=group)


class OneResult(ResultCollector):
    """Collects a bundle's results until one task, whose index is `wanted`, has its own."""

    wanted = 0

    @property
    def complete(self) -> bool:
        return self.wanted in self.results


async def _run(
    call: Request, endpoint: EndpointRecord, calls: Sequence[Call], group: UUID, wait_s: float
) -> tuple[Plan, list[TaskResult | None]]:
    service = call.service
    functions = [await function_for(service, call.caller, each) for each in {each.function for each in calls}]
    for function in functions:
        check_allowed(endpoint, function)
    options = (call.body or {}).get("user_endpoint_config")
    pool = await pool_for(
        service,
        call.caller.principal,
        endpoint,
        options,
        environment=environment_of(functions),
        accounts=call.caller.accounts,
    )
    plan = Plan(
        Submission(
            principal=call.caller.principal,
            endpoint=endpoint.endpoint_id,
            pool=pool,
            group=group,
            calls=calls,
            options=_options(call.body or {}),
            trace=_trace(call),
        ),
        max_payload=service.connection.max_payload,
    )
    await service.backlog.admit(endpoint, call.caller.principal, len(plan.bundles))
    service.metrics.tasks.labels("rest").inc(len(calls))
    if wait_s > 0:
        work = submission.submit_and_collect(service.connection, service.keys, service.lanes, plan, wait_s=wait_s)
        results = await call.unless_stopping(work)
        if results is not None:
            return plan, results
    # Without a wait; or the service stops, perhaps before everything was stored: storing again has no second effect.
    await plan.store(service.connection, service.keys, service.lanes)
    return plan, [None] * len(calls)


async def find_task(call: Request) -> TaskView:
    """The task that the path names, as it is now. Raises `NotFound` unless it is the caller's."""
    task_id, service = call.path_id("task_id"), call.service
    try:
        view = await task_views.find(service.connection, service.keys, call.caller.principal, task_id)
    except ValueError as error:
        raise NotFound(f"there is no task {task_id}: {error}") from None
    if view is None:
        raise NotFound(f"there is no task {task_id} of yours, or its result has expired")
    return await _unless_late(call, view)


async def _unless_late(call: Request, view: TaskView) -> TaskView:
    """The task as it is, `expired` if its time to wait is over and no pool can see to that.

    A pool that has it in hand ends it by itself. This is for what no pool has ever been given, and for endpoints that
    are away.
    """
    limit_s = view.queue_timeout_s
    if view.result is not None or limit_s is None or time.time() < view.stored_at + limit_s:
        return view
    service = call.service
    address = view.address
    lane = await service.lanes.state(address.endpoint, address.pool, address.principal)
    if lane.now < view.stored_at + limit_s:
        return view
    if view.sequence <= lane.taken_up_to and await is_up(service, view.address):
        return view
    error = waited_too_long(limit_s)
    return (await end_unstarted(service.connection, service.keys, [(view, error)], "expired"))[0]


async def _awaited(call: Request, view: TaskView, wait_s: float) -> TaskView:
    keys, address = call.service.keys, view.address
    collector = OneResult(address, keys.result_keys(address.endpoint, address.principal))
    collector.wanted = view.index
    async with ResultWatch(call.service.connection, [collector]) as watch:
        await watch.catch_up()
        await watch.until_complete(wait_s)
    view = ended(view, collector)
    return view if view.marked_at else await task_views.with_mark(call.service.connection, view)


def _calls(body: dict[str, Any]) -> list[Call]:
    if "tasks" not in body:
        return [_call(body)]
    problem = "belongs into each of `tasks`"
    doubled = tuple(Violation(pointer=f"/{name}", problem=problem) for name in _CALL if name in body)
    if doubled:
        raise InvalidRequest(f"with `tasks`, {doubled[0].pointer[1:]} {problem}", violations=doubled)
    return [_call(each) for each in body["tasks"]]


def _call(document: dict[str, Any]) -> Call:
    return Call(
        function=UUID(document["function_id"]), args=document.get("args") or (), kwargs=document.get("kwargs") or {}
    )


def _options(body: dict[str, Any]) -> TaskOptions:
    chosen, resources = of_document(body.get("options") or {}), body.get("resource_specification")
    if not resources:
        return chosen
    return msgspec.structs.replace(chosen, resource_specification=msgspec.json.encode(resources))


def _trace(call: Request) -> dict[str, str]:
    headers = call.request.headers
    return {
        name: headers[name] for name in ("traceparent", "tracestate") if len(headers.get(name, "")) in range(1, 513)
    }


async def _views(call: Request, plan: Plan, results: Sequence[TaskResult | None], *, waited: bool) -> list[TaskView]:
    places = [(bundle, index) for bundle in plan.bundles for index in range(bundle.total)]
    views = [
        TaskView(
            task_id=task_id(bundle.address.bundle, index),
            address=bundle.address,
            index=index,
            result=result,
            function=made.function,
        )
        for (bundle, index), made, result in zip(places, plan.submission.calls, results, strict=True)
    ]
    if not waited or all(results):
        return views
    address = views[0].address
    started = await task_views.started(call.service.connection, address.principal, address.group)
    return [replace(view, marked_at=started.get(view.task_id, 0.0)) for view in views]


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/endpoints/{endpoint_id}/tasks",
        handler=submit,
        summary="Submit one task or many",
        request_schema="task-submission",
        response_schema="task-submitted",
        status=202,
        query=(WAIT,),
        may_wait=True,
    ),
    Operation(
        method="POST",
        path="/api/v1/functions/{function_id}/invoke",
        handler=invoke,
        summary="Call a function: plain JSON in, plain JSON out",
        request_schema="invocation",
        response_schema="task",
        body_required=False,
        query=(WAIT,),
        may_wait=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/tasks/{task_id}",
        handler=get_task,
        summary="Read a task, and wait for its end",
        response_schema="task",
        query=(WAIT,),
        may_wait=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/tasks/{task_id}/result",
        handler=get_result,
        summary="Read the value of a task alone",
    ),
    Operation(
        method="GET",
        path="/api/v1/task-groups/{task_group_id}",
        handler=get_group,
        summary="Read all tasks of a group",
        response_schema="task-group",
    ),
    Operation(
        method="POST",
        path="/api/v1/tasks/{task_id}/cancel",
        handler=cancel,
        summary="Cancel a task",
        request_schema="task-cancellation",
        response_schema="task",
        status=202,
        body_required=False,
    ),
    Operation(
        method="POST",
        path="/api/v1/task-groups/{task_group_id}/cancel",
        handler=cancel_group,
        summary="Cancel tasks of a group, some or all",
        request_schema="task-group-cancellation",
        response_schema="task-group-cancelled",
        status=202,
        body_required=False,
    ),
)
