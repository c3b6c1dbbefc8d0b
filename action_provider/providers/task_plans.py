"""From what an action's body asks for to bundles that can be stored, and to the record that names them."""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from headrace.action_provider.api.access import check_allowed, endpoint_for, function_for
from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import Forbidden, InvalidRequest, MalformedRequest, NotFound
from headrace.action_provider.providers.provider import ProviderAddress
from headrace.action_provider.providers.requests import ActionRequest
from headrace.action_provider.providers.starts import new_record
from headrace.action_provider.state import Service
from headrace.action_provider.together import together
from headrace.action_provider.wishes import pool_for
from headrace.bus.errors import ArgumentNotSerialisable, EnvironmentUnusable, PoolFailed
from headrace.bus.store.action_keys import new_action_id, request_key
from headrace.bus.store.actions import ActionBundle, ActionRecord, ActionWork
from headrace.bus.store.models import EndpointRecord, FunctionRecord
from headrace.bus.tasks.bundles import TaskOptions
from headrace.bus.tasks.options import of_document
from headrace.bus.tasks.submission import Call, Plan, Submission
from headrace.schemas import Violation

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTask:
    """One call that a body asks for. Of the fields where it does so, errors speak."""

    endpoint: UUID
    function: UUID
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    endpoint_field: str = "$.endpoint_id"
    function_field: str = "$.function_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """All that a body asks for; results come in the order of `tasks`."""

    tasks: Sequence[AskedTask]
    group: UUID | None = None
    """The task group, where the caller names one."""
    user_endpoint_config: Mapping[str, Any] | None = None
    resource_specification: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None
    """How the tasks are run, as `task-options.json` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What of an action goes to one pool: `places` are those of its tasks in the action."""

    plan: Plan
    places: tuple[int, ...]


async def planned(
    service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest, asked: Asked
) -> list[Share]:
    """The tasks cut into bundles, for each pool. Raises `ServiceError` and `QueueFull` when they cannot run."""
    endpoints, functions = await _found(service, caller, asked)
    group = asked.group or new_action_id(at.path, caller.principal, request.request_id)
    options = _options(request, asked)
    by_pool = _by_pool(asked, functions)
    for (endpoint_id, _), places in by_pool.items():
        _check_allowed(endpoints[endpoint_id], (asked.tasks[place] for place in places), functions)
    # Side by side: each of them may have to be asked whether it can be had.
    pools = await together(
        *(_pool(service, caller, endpoints[endpoint], asked, environment) for endpoint, environment in by_pool)
    )
    shares = []
    for (endpoint_id, _), pool, places in zip(by_pool, pools, by_pool.values(), strict=True):
        submission = Submission(
            principal=caller.principal,
            endpoint=endpoint_id,
            pool=pool,
            group=group,
            calls=[_call(asked.tasks[place]) for place in places],
            options=options,
            origin=b"action",
        )
        shares.append(Share(plan=_cut(service, submission), places=tuple(places)))
    for share in shares:
        endpoint = endpoints[share.plan.submission.endpoint]
        await service.backlog.admit(endpoint, caller.principal, len(share.plan.bundles))
    return shares


def _call(task: AskedTask) -> Call:
    return Call(function=task.function, args=task.args, kwargs=task.kwargs)


def planned_again(service: Service, shares: Sequence[Share], record: ActionRecord) -> list[Share]:
    """The shares of an equal request, as the record of the first one has them; none when they are cut otherwise now."""
    works = record.works
    if [share.plan.submission.endpoint for share in shares] != [work.endpoint for work in works]:
        return []
    again = [_share_again(service, share, work) for share, work in zip(shares, works, strict=True)]
    alike = all(
        [each.total for each in share.plan.bundles] == [each.total for each in work.bundles]
        for share, work in zip(again, works, strict=True)
    )
    # The bus takes messages of another size since: these would be other bundles than those of the record.
    return again if alike else []


def _share_again(service: Service, share: Share, work: ActionWork) -> Share:
    submission = replace(
        share.plan.submission, group=work.group, first_bundle=work.bundles[0].bundle, pool=work.pool, retry=True
    )
    return Share(plan=Plan(submission, max_payload=service.connection.max_payload), places=share.places)


async def record_of(
    service: Service,
    at: ProviderAddress,
    caller: Caller,
    request: ActionRequest,
    asked: Asked,
    shares: Sequence[Share],
) -> ActionRecord:
    """The record of an action that is about to start."""
    work, *more = (_work(share, alone=len(shares) == 1) for share in shares)
    action_id = await _action_id(service, at.path, caller, request, asked, work.group)
    record = new_record(caller, at, request, action_id=action_id)
    return msgspec.structs.replace(record, work=work, more_work=tuple(more), group_named=asked.group is not None)


async def _action_id(
    service: Service, path: str, caller: Caller, request: ActionRequest, asked: Asked, group: UUID
) -> str:
    action_id = f"tg_{group}"
    if asked.group is not None:
        # A group that the caller named may hold several actions: only the first one is called after it.
        key = request_key(path, caller.principal, request.request_id)
        if not await service.tables.actions.claim_id(action_id, key):
            return f"tg_{new_action_id(path, caller.principal, request.request_id)}"
    return action_id


def _work(share: Share, *, alone: bool) -> ActionWork:
    submission = share.plan.submission
    return ActionWork(
        endpoint=submission.endpoint,
        pool=submission.pool,
        group=submission.group,
        bundles=tuple(ActionBundle(bundle=each.address.bundle, total=each.total) for each in share.plan.bundles),
        places=() if alone else share.places,
    )


async def _found(
    service: Service, caller: Caller, asked: Asked
) -> tuple[dict[UUID, EndpointRecord], dict[UUID, FunctionRecord]]:
    """Every endpoint and function that is named, by id; each is read once."""
    endpoints: dict[UUID, str] = {}
    functions: dict[UUID, str] = {}
    for task in asked.tasks:
        endpoints.setdefault(task.endpoint, task.endpoint_field)
        functions.setdefault(task.function, task.function_field)
    # As a rule they were read a moment ago.
    found = await together(*(_named(endpoint_for(service, caller, each), field) for each, field in endpoints.items()))
    usable = await together(*(_named(function_for(service, caller, each), field) for each, field in functions.items()))
    return dict(zip(endpoints, found, strict=True)), dict(zip(functions, usable, strict=True))


async def _named(record: Coroutine[Any, Any, T], field_name: str) -> T:
    try:
        return await record
    except NotFound as error:
        # 404 would say that the action, or the provider, does not exist.
        raise MalformedRequest(f"Field '{field_name}': {error.detail}") from None


def _by_pool(asked: Asked, functions: Mapping[UUID, FunctionRecord]) -> dict[tuple[UUID, str], list[int]]:
    """The places of the tasks that can share a pool: those of one endpoint whose functions need the same packages."""
    environments = {function: record.needs.text for function, record in functions.items()}
    places: dict[tuple[UUID, str], list[int]] = {}
    for place, task in enumerate(asked.tasks):
        places.setdefault((task.endpoint, environments[task.function]), []).append(place)
    return places


def _check_allowed(
    endpoint: EndpointRecord, tasks: Iterable[AskedTask], functions: Mapping[UUID, FunctionRecord]
) -> None:
    checked = set()
    for task in tasks:
        if task.function not in checked:
            checked.add(task.function)
            try:
                check_allowed(endpoint, functions[task.function])
            except Forbidden as error:
                raise Forbidden(f"Field '{task.function_field}': {error.detail}") from None


async def _pool(service: Service, caller: Caller, endpoint: EndpointRecord, asked: Asked, environment: str) -> str:
    try:
        return await pool_for(
            service,
            caller.principal,
            endpoint,
            asked.user_endpoint_config,
            environment=environment,
            accounts=caller.accounts,
        )
    except EnvironmentUnusable as error:
        raise MalformedRequest(str(error)) from None
    except PoolFailed as error:
        raise MalformedRequest(f"Field '$.user_endpoint_config': {error}") from None


def _cut(service: Service, submission: Submission) -> Plan:
    try:
        return Plan(submission, max_payload=service.connection.max_payload)
    except ArgumentNotSerialisable as error:
        raise InvalidRequest(str(error), violations=(Violation(pointer="/body/tasks", problem=str(error)),)) from None


def _options(request: ActionRequest, asked: Asked) -> TaskOptions:
    chosen, specification = of_document(asked.options or {}), asked.resource_specification
    queue_timeout_s = chosen.queue_timeout_s
    if request.deadline is not None:
        queue_timeout_s = min(queue_timeout_s or math.inf, max(1.0, request.deadline - time.time()))
    return msgspec.structs.replace(
        chosen,
        resource_specification=msgspec.json.encode(specification) if specification else b"",
        queue_timeout_s=queue_timeout_s,
    )
