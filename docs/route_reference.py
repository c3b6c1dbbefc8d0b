"""http.md: the HTTP interface, from the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tables import NOTE, table

from headrace.action_provider.app import OPERATIONS
from headrace.action_provider.openapi import describe

_HTTP = """\
# HTTP routes

A running service describes itself: the OpenAPI 3.1 document is at `/openapi.json`, a page to read at `/docs`, and every
schema named here at `/schemas/NAME`. The routes of action providers, which follow another interface, are in
[action-providers.md](action-providers.md).

Where a token is needed it is sent as `Authorization: Bearer TOKEN`. Bodies and answers are JSON; an error is
`{"code", "detail", "errors": [{"pointer", "problem"}]}`, its codes are in [errors.md](errors.md). Unknown fields and
unknown query parameters are refused.
"""


def routes() -> str:
    """The HTTP interface, from the OpenAPI document."""
    parts = [NOTE, _HTTP]
    tag = ""
    for path, methods in describe(OPERATIONS)["paths"].items():
        for method, operation in methods.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f"## {tag.replace('_', ' ').capitalize()}\n")
            parts += _route(path, method, operation)
    return "\n".join(parts)


def _route(path: str, method: str, operation: Mapping[str, Any]) -> list[str]:
    rows = []
    for parameter in operation["parameters"]:
        if parameter["in"] == "query":
            needed = " Needed." if parameter["required"] else ""
            rows.append((f"`?{parameter['name']}=`", parameter["description"] + needed))
    body = operation.get("requestBody")
    if body:
        optional = "" if body["required"] else "; may be left out"
        rows += [("body", f"{_schema_of(each)}{optional}") for each in body["content"].items()]
    for status, answer in operation["responses"].items():
        if status != "default":
            content = answer.get("content", {}).items()
            rows.append((f"`{status}`", ", ".join(map(_schema_of, content)) or "nothing"))
    text = f"{operation['summary']}. {' '.join(operation['description'].split())}\n"
    return [f"### `{method.upper()} {path}`\n", text, table(("", ""), rows)]


def _schema_of(content: tuple[str, Mapping[str, Any]]) -> str:
    media_type, document = content
    name = document.get("schema", {}).get("$ref", "").removeprefix("#/components/schemas/")
    shown = f"`{name}`" if name else media_type
    return shown if not name or media_type == "application/json" else f"{shown} as {media_type}"
