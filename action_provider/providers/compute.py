"""The Compute provider: one action runs functions on one endpoint. Takes the body of Globus Compute's V3 provider.

An action is its record and the bundles of its tasks. The bundles' ids are written into the record before anything is
submitted, so whoever repeats the request after a crash submits the same bundles, which then run once.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.action_provider.api.access import check_allowed, endpoint_for, function_for
from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import Conflict, InvalidRequest, MalformedRequest, NotFound, ServiceError
from headrace.action_provider.providers.documents import timestamp
from headrace.action_provider.providers.outcome import (
    Outcome,
    details_again,
    failure_of,
    outcome_of,
    progress_of,
    without_values,
)
from headrace.action_provider.providers.provider import ActionRow
from headrace.action_provider.providers.requests import ActionRequest, check_body
from headrace.action_provider.state import Service
from headrace.action_provider.wishes import environment_of, pool_for
from headrace.bus.errors import ArgumentNotSerialisable, EnvironmentUnusable, PayloadTooLarge, PoolFailed, QueueFull
from headrace.bus.ids import task_id
from headrace.bus.store.actions import ActionBundle, ActionRecord, ActionWork, Start, request_key
from headrace.bus.tasks.bundles import TaskOptions
from headrace.bus.tasks.cancelling import cancel
from headrace.bus.tasks.results import ResultCollector, ResultWatch
from headrace.bus.tasks.submission import Call, Plan, Submission, collector
from headrace.bus.tasks.task_views import started
from headrace.schemas import Violation, schema

logger = logging.getLogger(__name__)

_CANCELLED: Final = "Cancelled"
_TOO_LATE: Final = "DeadlineExceeded"


@dataclass(frozen=True, slots=True)
class ComputeProvider:
    """`/actions/compute/v3`."""

    path: str = "/actions/compute/v3"

    def introspect(self) -> dict[str, Any]:
        """The provider description."""
        return {
            "types": ["Action"],
            "api_version": "1.0",
            "title": "Headrace Compute",
            "subtitle": "Run registered functions on your own endpoints",
            "description": (
                "Runs one or more registered Python functions on one endpoint and gives their results back. The body is"
                " that of the Globus Compute V3 action provider; arguments and results are plain JSON."
            ),
            "keywords": ["compute", "python", "function", "headrace"],
            "synchronous": False,
            "log_supported": True,
            "visible_to": ["public"],
            "runnable_by": ["all_authenticated_users"],
            "administered_by": [],
            "admin_contact": "the administrator of this Headrace service",
            "maximum_deadline": "P30D",
            "globus_auth_scope": "urn:headrace:scope:compute:action_all",
            "input_schema": schema("compute-body"),
        }

    async def run(self, service: Service, caller: Caller, request: ActionRequest) -> Start:
        """Start the tasks, once for each request id of the caller, and wait a little for a quick end."""
        actions = service.tables.actions
        try:
            plan = await _planned(service, caller, request)
        except (ServiceError, QueueFull):
            # A repetition is answered even when the function or the endpoint has gone since, or the queue is full.
            found = await actions.of_request(self.path, caller.principal, request.request_id)
            if found is None or found.value.request_digest != request.digest:
                raise
            return Start(await self.status(service, found), created=False)
        action = await self._action(service, caller, request, plan)
        start = await actions.start(action)
        if start.created:
            return Start(await _submit(service, start.record, plan), created=True)
        if start.record.value.request_digest != request.digest:
            raise Conflict(f"a request with the id {request.request_id!r} was made before, with other parameters")
        return Start(await self._again(service, start.record, plan), created=False)

    async def status(self, service: Service, action: ActionRow) -> ActionRow:
        """The action as its results say."""
        if action.value.final and action.value.details is not None:
            return action
        collectors = _collectors(service, action.value)
        await asyncio.gather(*(each.catch_up(service.connection) for each in collectors))
        return await _seen(service, action, collectors)

    async def cancel(self, service: Service, action: ActionRow) -> ActionRow:
        """Stop what has not ended. The action is FAILED from now on, whatever its tasks still do."""
        action = await self.status(service, action)
        if action.value.final:
            return action
        return await _give_up(service, action, _CANCELLED, "The action was cancelled", "Cancelled")

    async def release(self, service: Service, action: ActionRow) -> None:
        """Nothing is kept beside the record: the results expire by themselves."""

    async def log(self, service: Service, action: ActionRow) -> list[dict[str, Any]]:
        """Start, end of each task, and end."""
        seen = await self.status(service, action)
        collectors = _collectors(service, action.value)
        await asyncio.gather(*(each.catch_up(service.connection) for each in collectors))
        entries = []
        for each in collectors:
            for task, index in _tasks_of(each):
                result = each.results.get(index)
                if result is not None:
                    entries.append(
                        {
                            "time": timestamp(result.ended_at or each.last_stored_at),
                            "code": f"Task{result.state.capitalize()}",
                            "description": f"Task {task} {result.state}",
                            "details": {"task_id": str(task), "state": result.state, "attempts": result.attempts},
                        }
                    )
        entries.sort(key=lambda entry: str(entry["time"]))
        first = {"time": timestamp(seen.value.started_at), "code": "ActionStarted", "description": "The action started"}
        last = []
        if seen.value.ended_at is not None:
            code = f"Action{seen.value.status.capitalize()}"
            last = [{"time": timestamp(seen.value.ended_at), "code": code, "description": seen.value.display_status}]
        return [first, *entries, *last]

    async def _action(self, service: Service, caller: Caller, request: ActionRequest, plan: Plan) -> ActionRecord:
        submission = plan.submission
        action_id = f"tg_{submission.group}"
        if request.body.get("task_group_id"):
            # A group that the caller named may hold several actions: only the first one is called after it.
            key = request_key(self.path, caller.principal, request.request_id)
            if not await service.tables.actions.claim_id(action_id, key):
                action_id = f"tg_{uuid.uuid4()}"
        bundles = tuple(ActionBundle(bundle=each.address.bundle, total=each.total) for each in plan.bundles)
        return ActionRecord(
            action_id=action_id,
            provider=self.path,
            creator=caller.principal,
            request_id=request.request_id,
            request_digest=request.digest,
            started_at=time.time(),
            label=request.label,
            monitor_by=request.monitor_by,
            manage_by=request.manage_by,
            release_after=request.release_after,
            release_after_s=request.release_after_s,
            deadline=request.deadline,
            work=ActionWork(
                endpoint=submission.endpoint, pool=submission.pool, group=submission.group, bundles=bundles
            ),
        )

    async def _again(self, service: Service, found: ActionRow, plan: Plan) -> ActionRow:
        """A repeated request: what its first life may have left undone is done, once."""
        action = await self.status(service, found)
        work = action.value.work
        if action.value.final or work is None or not work.bundles:
            return action
        submission = replace(
            plan.submission, group=work.group, first_bundle=work.bundles[0].bundle, pool=work.pool, retry=True
        )
        repeated = Plan(submission, max_payload=service.connection.max_payload)
        if [bundle.total for bundle in repeated.bundles] != [bundle.total for bundle in work.bundles]:
            # The bus takes messages of another size since: these would be other bundles than those of the record.
            return action
        return await _submit(service, found, repeated)


async def _planned(service: Service, caller: Caller, request: ActionRequest) -> Plan:
    """The request's tasks, cut into bundles. Raises `ServiceError` when they cannot run."""
    body = request.body
    check_body("compute-body", body)
    functions = list(dict.fromkeys(UUID(task["function_id"]) for task in body["tasks"]))
    try:
        endpoint, records = await asyncio.gather(
            endpoint_for(service, caller, UUID(body["endpoint_id"])),
            asyncio.gather(*(function_for(service, caller, function) for function in functions)),
        )
    except NotFound as error:
        # 404 would say that the action, or the provider, does not exist.
        raise MalformedRequest(error.detail) from None
    for record in records:
        check_allowed(endpoint, record)
    try:
        pool = await pool_for(
            service,
            caller.principal,
            endpoint,
            body.get("user_endpoint_config"),
            environment=environment_of(records),
        )
    except EnvironmentUnusable as error:
        raise MalformedRequest(str(error)) from None
    except PoolFailed as error:
        raise MalformedRequest(f"user_endpoint_config: {error}") from None
    submission = Submission(
        principal=caller.principal,
        endpoint=endpoint.endpoint_id,
        pool=pool,
        group=UUID(body["task_group_id"]) if body.get("task_group_id") else uuid.uuid4(),
        calls=[
            Call(function=UUID(task["function_id"]), args=task.get("args") or (), kwargs=task.get("kwargs") or {})
            for task in body["tasks"]
        ],
        options=_options(request),
        origin=b"action",
    )
    try:
        plan = Plan(submission, max_payload=service.connection.max_payload)
    except ArgumentNotSerialisable as error:
        raise InvalidRequest(str(error), violations=(Violation(pointer="/body/tasks", problem=str(error)),)) from None
    await service.backlog.admit(endpoint, caller.principal, len(plan.bundles))
    return plan


def _options(request: ActionRequest) -> TaskOptions:
    specification = request.body.get("resource_specification")
    return TaskOptions(
        json_result=True,
        resource_specification=msgspec.json.encode(specification) if specification else b"",
        queue_timeout_s=None if request.deadline is None else max(1.0, request.deadline - time.time()),
    )


async def _submit(service: Service, record: ActionRow, plan: Plan) -> ActionRow:
    """Store the tasks and wait a little for their end. Two equal calls, also at once, have the effect of one."""
    collectors = [collector(service.keys, bundle) for bundle in plan.bundles]
    async with ResultWatch(service.connection, collectors, confirmed=False) as watch:
        await asyncio.gather(
            service.tables.actions.publish_id(record), plan.store(service.connection, service.keys, service.lanes)
        )
        if plan.submission.retry:
            await watch.catch_up()
        await watch.until_complete(service.settings.run_wait_s)
    if not plan.submission.retry:
        service.metrics.tasks.labels("action").inc(len(plan.submission.calls))
    return await _seen(service, record, collectors)


async def _seen(service: Service, action: ActionRow, collectors: Sequence[ResultCollector]) -> ActionRow:
    """The action with what its results say; the end, if this is one, is written before anybody sees it."""
    record = action.value
    if record.final:
        if record.details is not None:
            return action
        return replace(action, value=msgspec.structs.replace(record, details=details_again(collectors)))
    if all(each.complete for each in collectors):
        ended_at = max((each.last_stored_at for each in collectors), default=0.0) or time.time()
        return await _finish(service, action, outcome_of(collectors), max(ended_at, record.started_at))
    if record.deadline is not None and time.time() > record.deadline:
        return await _give_up(
            service, action, _TOO_LATE, "The deadline passed before all tasks had ended", "Deadline exceeded"
        )
    # There is an unfinished task, hence a bundle; all bundles of an action are in its group.
    address = collectors[0].address
    running = await started(service.connection, address.principal, address.group)
    progress = progress_of(collectors, _group(record), running)
    value = msgspec.structs.replace(record, details=progress.details, display_status=progress.display_status)
    return replace(action, value=value)


async def _give_up(service: Service, action: ActionRow, code: str, description: str, display_status: str) -> ActionRow:
    """Cancel what has not ended, by force, and end the action."""
    collectors = _collectors(service, action.value)
    await asyncio.gather(*(each.catch_up(service.connection) for each in collectors))
    unfinished = [each for each in collectors if not each.complete]
    # First the order to stop, then the end: a crash in between leaves an action that can be cancelled again.
    for each in unfinished:
        await cancel(service.connection, service.keys, each.address, force=True)
    outcome = failure_of(collectors, code=code, description=description, display_status=display_status)
    return await _finish(service, action, outcome, time.time())


async def _finish(service: Service, action: ActionRow, outcome: Outcome, ended_at: float) -> ActionRow:
    record = msgspec.structs.replace(
        action.value,
        status=outcome.status,
        display_status=outcome.display_status,
        details=outcome.details,
        ended_at=ended_at,
    )
    actions = service.tables.actions
    try:
        finished = await actions.finish(action, record)
    except PayloadTooLarge:
        # Of a success the results keep the details, as long as they last; of a failure the values are left out.
        shorter = None if outcome.status == "SUCCEEDED" else without_values(outcome.details)
        finished = await actions.finish(action, msgspec.structs.replace(record, details=shorter))
        if finished is not None and finished.value.details is None:
            finished = replace(finished, value=record)
    if finished is None:
        raise NotFound(f"the action {record.action_id!r} was released in this moment")
    return finished


def _collectors(service: Service, action: ActionRecord) -> list[ResultCollector]:
    bundles = action.work.submitted(action.creator) if action.work else []
    return [collector(service.keys, bundle) for bundle in bundles]


def _group(action: ActionRecord) -> str:
    return str(action.work.group) if action.work else ""


def _tasks_of(each: ResultCollector) -> list[tuple[UUID, int]]:
    return [(task_id(each.address.bundle, index), index) for index in range(each.total or 0)]
