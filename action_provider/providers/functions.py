"""A provider for each registered function: the body of an action is the function's arguments, by name.

    POST /actions/functions/FUNCTION_ID/run   {"request_id": …, "body": {"path": "/data/run-7", "depth": 3}}

The body is checked against the input schema of the function before anything is stored. Where it runs is said by the
body (`$endpoint`), or by the address (`?endpoint=ENDPOINT_ID`), or else by the function's default endpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from headrace.action_provider.api.access import function_for
from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import InvalidRequest, MalformedRequest, NotFound
from headrace.action_provider.function_providers import FUNCTIONS_PATH, RESERVED
from headrace.action_provider.provider_access import EVERYBODY, Access
from headrace.action_provider.providers.action_tasks import ActionTask
from headrace.action_provider.providers.arguments import arguments_of
from headrace.action_provider.providers.outcome import lists_of_values
from headrace.action_provider.providers.provider import Description, ProviderAddress
from headrace.action_provider.providers.requests import ActionRequest, body_problems, check_body
from headrace.action_provider.providers.task_actions import TaskProvider
from headrace.action_provider.providers.task_plans import Asked, AskedTask
from headrace.action_provider.state import Service
from headrace.bus.store.actions import Start
from headrace.bus.store.models import FunctionRecord
from headrace.schemas import TOO_LONG, SchemaViolation, Violation, schema, validate_given

_ENDPOINT: Final = f"{RESERVED}endpoint"
_OPTIONS: Final = f"{RESERVED}options"
_BOUND: Final = "endpoint"
"""The parameter of the address."""
_STEPS_AT_ONCE: Final = 2_000
"""Some milliseconds; what takes longer is checked on a thread."""


@dataclass(frozen=True, slots=True)
class FunctionProvider(TaskProvider):
    """`/actions/functions/{function_id}`."""

    path: str = FUNCTIONS_PATH

    async def describe(self, service: Service, at: ProviderAddress) -> Description:
        """The function's name, docstring and input schema. Raises `NotFound`, and `MalformedRequest` for the query."""
        function = await _function(service, at)
        if function is None:
            raise NotFound(f"there is no function {at.parameters['function_id']}; register it first")
        needs_endpoint = _bound(at) is None and function.default_endpoint is None
        return Description(
            title=function.name,
            subtitle="A registered function",
            description=function.description or f"Runs the function {function.name!r} and gives its result back.",
            keywords=("function", "python", "headrace"),
            input_schema=_whole_schema(function, bound=_bound(at) is not None, needs_endpoint=needs_endpoint),
        )

    async def access(self, service: Service, at: ProviderAddress) -> Access:
        """A public function is everybody's to see and, with an account, to run; any other one its owner's."""
        general = service.settings.access_of(self.path)
        function = await _function(service, at)
        # Without its function a provider runs nothing any more, but its actions are still there for who made them.
        if function is None or function.public:
            return general
        everybody = EVERYBODY in general.runnable_by
        owner = (function.owner,)
        return replace(general, visible_to=owner, runnable_by=owner if everybody else general.runnable_by)

    def values(self, tasks: Sequence[ActionTask]) -> dict[str, Any]:
        """The value as `output`, and in the lists that the compute provider shows as well."""
        return {"output": tasks[0].output, **lists_of_values(tasks)}

    async def run(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Start:
        """Call the function once for each request id of the caller, and wait a little for a quick end."""
        bound = _bound(at)
        if bound is not None:
            # With another endpoint in the address it is another request, though the documents are the same.
            digest = hashlib.sha256(f"{request.digest} {bound}".encode()).hexdigest()
            request = replace(request, digest=digest)
        # Not `super()`: dataclasses with slots are made anew, and it would look in the class that was replaced.
        return await TaskProvider.run(self, service, caller, at, request)

    async def asked(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Asked:
        """The one call of a body. Raises `NotFound`, and `InvalidRequest`, which names the field."""
        function = await function_for(service, caller, UUID(at.parameters["function_id"]))
        own = {name: value for name, value in request.body.items() if name.startswith(RESERVED)}
        arguments = {name: value for name, value in request.body.items() if not name.startswith(RESERVED)}
        check_body("function-action", own)
        described = function.input_schema or {}
        await _check(described, arguments)
        args, kwargs = arguments_of(described, arguments)
        endpoint, named_by = _endpoint(function, own, _bound(at))
        task = AskedTask(
            endpoint=endpoint,
            function=function.function_id,
            args=args,
            kwargs=kwargs,
            endpoint_field=named_by,
            function_field="function_id",
        )
        return Asked(
            tasks=[task],
            user_endpoint_config=own.get(f"{RESERVED}user_endpoint_config"),
            resource_specification=own.get(f"{RESERVED}resource_specification"),
            options=own.get(_OPTIONS),
        )


async def _function(service: Service, at: ProviderAddress) -> FunctionRecord | None:
    found = await service.tables.functions.recent(UUID(at.parameters["function_id"]).hex)
    return None if found is None else found.value


async def _check(description: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Check the arguments by the function's schema. Raises `InvalidRequest`."""
    try:
        try:
            validate_given(description, arguments, name="body", steps=_STEPS_AT_ONCE)
        except SchemaViolation as error:
            if error.violations[0].keyword != TOO_LONG:
                raise
            # Other requests do not wait for this one.
            await asyncio.to_thread(validate_given, description, arguments, name="body")
    except SchemaViolation as error:
        raise InvalidRequest(body_problems(error.violations), violations=error.violations) from None


def _bound(at: ProviderAddress) -> UUID | None:
    """The endpoint of the address. Raises `MalformedRequest`."""
    given = at.query.get(_BOUND)
    if given is None:
        return None
    try:
        return UUID(given)
    except ValueError:
        raise MalformedRequest(f"`?{_BOUND}=` in the address is {given[:80]!r}, which is not a UUID") from None


def _endpoint(function: FunctionRecord, own: Mapping[str, Any], bound: UUID | None) -> tuple[UUID, str]:
    """Where the function is to run, and the field that says so. Raises `InvalidRequest`."""
    named = UUID(own[_ENDPOINT]) if _ENDPOINT in own else None
    if named is not None and bound is not None and named != bound:
        raise _refused("is another one than the endpoint that the address binds; leave it out")
    if named is not None or bound is not None:
        return named or bound or UUID(int=0), f"$.{_ENDPOINT}" if named else f"?{_BOUND}"
    if function.default_endpoint is None:
        raise _refused(
            f"is needed: this function has no default endpoint, and the address binds none (`?{_BOUND}=`)", "required"
        )
    return function.default_endpoint, "default_endpoint"


def _refused(problem: str, category: str = "endpoint") -> InvalidRequest:
    violation = Violation(pointer=f"/{_ENDPOINT}", problem=problem, keyword=category)
    return InvalidRequest(f"Field '$.{_ENDPOINT}' (category: '{category}'): {problem}", violations=(violation,))


def _whole_schema(function: FunctionRecord, *, bound: bool, needs_endpoint: bool) -> dict[str, Any]:
    """The schema of bodies: the function's, with the members that are the provider's own."""
    described = function.input_schema or {}
    own = {name: dict(each) for name, each in schema("function-action")["properties"].items()}
    own[_ENDPOINT] = {"type": "string", "format": "uuid", **own[_ENDPOINT]}
    del own[_ENDPOINT]["$ref"]
    own[_OPTIONS] = {key: value for key, value in schema("task-options").items() if key != "$schema"}
    if bound:
        del own[_ENDPOINT]
    required = [*described.get("required", ()), *([_ENDPOINT] if needs_endpoint else ())]
    return {
        **described,
        "type": "object",
        "properties": {**described.get("properties", {}), **own},
        **({"required": required} if required else {}),
    }
