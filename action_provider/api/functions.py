"""Functions: register, list, read, delete."""

from __future__ import annotations

import base64
import binascii
import platform
import time
import uuid
from dataclasses import replace
from typing import Any
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.access import endpoint_for, function_for, timestamp
from headrace.action_provider.errors import Forbidden, InvalidRequest, refused
from headrace.action_provider.function_providers import RESERVED, provider_path
from headrace.action_provider.http import Call, Operation, no_content, reply
from headrace.bus.errors import RequirementsInvalid
from headrace.bus.functions.requirements import Needs
from headrace.bus.store.models import FunctionCodeRecord, FunctionRecord
from headrace.schemas import SchemaViolation, Violation, check_given


async def register(call: Call) -> Response:
    """Store a function: immutable, with an id of its own, even when the same code is there already."""
    body = call.body
    function_id = uuid.uuid4()
    code = FunctionCodeRecord(
        function_id=function_id,
        source=body.get("source"),
        pickled=_decoded(body.get("pickled"), "pickled"),
        entry_point=body.get("entry_point"),
        modules=_decoded(body.get("modules"), "modules"),
    )
    needs = _needs(body)
    if body.get("input_schema") is not None:
        _check_input_schema(body["input_schema"])
    endpoint = body.get("default_endpoint")
    if endpoint is not None:
        await endpoint_for(call.service, call.caller, UUID(endpoint))
    record = FunctionRecord(
        function_id=function_id,
        name=body["name"],
        owner=call.caller.principal,
        python_version=body.get("python_version") or platform.python_version(),
        created_at=time.time(),
        description=body.get("description") or "",
        public=body.get("public", False),
        metadata=body.get("metadata") or {},
        requirements=needs.requirements,
        requires_python=needs.python,
        input_schema=body.get("input_schema"),
        default_endpoint=None if endpoint is None else UUID(endpoint),
    )
    # The code comes first: a crash in between leaves code that nobody can name, not a function without code.
    await call.service.tables.function_code.put(function_id.hex, code)
    await call.service.tables.functions.put(function_id.hex, record)
    call.service.metrics.functions.inc()
    return reply({"function_id": function_id}, 201)


async def list_functions(call: Call) -> Response:
    """The caller's functions and the public ones, newest first, without their code."""
    records = await call.service.tables.functions.list()
    visible = [r.value for r in records if r.value.public or call.caller.is_(r.value.owner)]
    visible.sort(key=lambda function: -function.created_at)
    return reply({"functions": [_described(function) for function in visible]})


async def get(call: Call) -> Response:
    """One function, with its code."""
    function = await function_for(call.service, call.caller, call.path_id("function_id"))
    code = (await call.service.tables.function_code.need(function.function_id.hex)).value
    return reply(
        {
            **_described(function),
            "input_schema": function.input_schema,
            "source": code.source,
            "pickled": code.pickled,
            "entry_point": code.entry_point,
        }
    )


async def delete(call: Call) -> Response:
    """Remove a function; tasks that wait for it will fail."""
    function = await function_for(call.service, call.caller, call.path_id("function_id"))
    if not call.caller.is_(function.owner):
        raise Forbidden(f"function {function.name!r} belongs to somebody else; only its owner may delete it")
    await call.service.tables.functions.delete(function.function_id.hex)
    await call.service.tables.function_code.delete(function.function_id.hex)
    return no_content()


def _described(function: FunctionRecord) -> dict[str, Any]:
    return {
        "function_id": function.function_id,
        "name": function.name,
        "owner": function.owner,
        "python_version": function.python_version,
        "description": function.description,
        "public": function.public,
        "metadata": function.metadata,
        "requirements": list(function.requirements),
        "requires_python": function.requires_python,
        "default_endpoint": function.default_endpoint,
        "provider": provider_path(function.function_id),
        "created_at": timestamp(function.created_at),
    }


def _check_input_schema(description: dict[str, Any]) -> None:
    try:
        check_given(description, name="input_schema")
    except SchemaViolation as error:
        raise InvalidRequest(f"input_schema: {error}", violations=_below("/input_schema", error)) from None
    reserved = [name for name in description.get("properties") or () if name.startswith(RESERVED)]
    if reserved:
        problem = f"names that begin with {RESERVED} are the provider's own, such as {RESERVED}endpoint"
        raise refused(f"/input_schema/properties/{reserved[0]}", problem)


def _below(pointer: str, error: SchemaViolation) -> tuple[Violation, ...]:
    return tuple(replace(violation, pointer=pointer + violation.pointer) for violation in error.violations)


def _needs(body: dict[str, Any]) -> Needs:
    try:
        return Needs.of(body.get("requirements") or (), body.get("requires_python") or "")
    except RequirementsInvalid as error:
        pointer = f"/{error.field}"
        raise InvalidRequest(str(error), violations=(Violation(pointer=pointer, problem=error.problem),)) from None


def _decoded(data: str | None, name: str) -> bytes | None:
    if data is None:
        return None
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        problem = f"not base64: {error}"
        raise InvalidRequest(
            f"{name} is {problem}", violations=(Violation(pointer=f"/{name}", problem=problem),)
        ) from None


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/functions",
        handler=register,
        summary="Register a function",
        request_schema="function-registration",
        response_schema="function-registered",
        status=201,
        body_setting="function_bytes",
    ),
    Operation(
        method="GET",
        path="/api/v1/functions",
        handler=list_functions,
        summary="List the functions that you may use",
        response_schema="function-list",
    ),
    Operation(
        method="GET",
        path="/api/v1/functions/{function_id}",
        handler=get,
        summary="Read a function and its code",
        response_schema="function",
    ),
    Operation(
        method="DELETE",
        path="/api/v1/functions/{function_id}",
        handler=delete,
        summary="Delete a function of your own",
        status=204,
    ),
)
