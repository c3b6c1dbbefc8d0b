"""The OpenAPI 3.1 description, made from the route table and the JSON schemas: it cannot contradict them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from headrace.action_provider.http import Operation
from headrace.action_provider.protocol import service_version
from headrace.schemas import schema

_ABOUT = (
    "Errors have one shape (the schema `error`). Times to wait are written as `5s`, `500ms` or `5`."
    " Action providers for workflows describe themselves, with the schema of their input, at: "
)
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_AUTH_TEXT = {
    "none": "",
    "user": "Needs a user's token.",
    "admin": "Needs an administrator's token.",
    "endpoint": "Needs the endpoint's own token.",
    "either": "Needs a user's token, or the endpoint's own.",
    "publisher": "Needs a user's token, or that of an endpoint for events whose `source` begins with `/endpoints/ID/`.",
    "own": "Needs a token that another call gave.",
}


def describe(operations: Sequence[Operation], providers: Sequence[str] = ()) -> dict[str, Any]:
    """The whole document. `providers` are the addresses of action providers, which describe themselves there."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(_path(operation), {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Headrace",
            "version": service_version(),
            "summary": "Events, workflow steps and direct calls run registered Python functions on your own endpoints.",
            "description": _ABOUT + " ".join(f"`{path}`" for path in providers) + ".",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(_tag(operation) for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": _components(operations),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A Headrace token."}},
            "responses": {"Error": _content("What went wrong.", "error", "application/json")},
        },
    }


def _path(operation: Operation) -> str:
    return _PARAMETER.sub(r"{\1}", operation.path)


def _tag(operation: Operation) -> str:
    return operation.name.split(".")[0]


def _operation(operation: Operation) -> dict[str, Any]:
    document: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [_tag(operation)],
        "summary": operation.summary,
        "description": " ".join(
            part for part in ((operation.handler.__doc__ or "").strip(), _AUTH_TEXT[operation.auth]) if part
        ),
        "parameters": [*map(_path_parameter, _PARAMETER.findall(operation.path)), *map(_query, operation.query)],
        "responses": {
            str(operation.status): _success(operation),
            "default": {"$ref": "#/components/responses/Error"},
        },
        "security": [] if operation.auth == "none" else [{"token": []}],
    }
    if operation.request_schema is not None:
        document["requestBody"] = {
            "required": operation.body_required,
            "content": {
                operation.request_type: {"schema": _reference(operation.request_schema)},
                **{media_type: {"schema": _reference(name)} for media_type, name in operation.other_requests},
            },
        }
    return document


def _success(operation: Operation) -> dict[str, Any]:
    if operation.status == 204:
        return {"description": "Done; there is nothing to say."}
    document = _content("Success.", operation.response_schema, operation.response_type)
    document["content"].update({media_type: {} for media_type in operation.other_types})
    return document


def _content(description: str, name: str | None, media_type: str) -> dict[str, Any]:
    if name is None:
        # OpenAPI 3.1: an empty schema is anything.
        return {"description": description, "content": {media_type: {}}}
    return {"description": description, "content": {media_type: {"schema": _reference(name)}}}


def _path_parameter(name: str) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": "string"}
    if name in ("endpoint_id", "function_id", "task_id"):
        kind["format"] = "uuid"
    return {"name": name, "in": "path", "required": True, "schema": kind}


def _query(query: Any) -> dict[str, Any]:
    return {
        "name": query.name,
        "in": "query",
        "required": query.required,
        "description": query.description,
        "schema": dict(query.schema),
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _components(operations: Iterable[Operation]) -> dict[str, Any]:
    waiting = ["error"]
    for operation in operations:
        waiting += [name for name in (operation.request_schema, operation.response_schema) if name]
        waiting += [name for _, name in operation.other_requests]
    components: dict[str, Any] = {}
    while waiting:
        name = waiting.pop()
        if name not in components:
            components[name] = _embedded(schema(name), waiting)
    return dict(sorted(components.items()))


def _embedded(part: Any, found: list[str]) -> Any:
    """A schema whose references to files have become references to components; `found` collects what it refers to."""
    if isinstance(part, list):
        return [_embedded(each, found) for each in part]
    if not isinstance(part, dict):
        return part
    embedded = {key: _embedded(value, found) for key, value in part.items() if key != "$schema"}
    target = embedded.get("$ref")
    if isinstance(target, str) and not target.startswith("#"):
        name = target.removesuffix(".json")
        found.append(name)
        embedded["$ref"] = f"#/components/schemas/{name}"
    return embedded
