"""Holds every answer that a test gets from the service to the service's own description."""

from __future__ import annotations

import functools
import re
from typing import Any

import httpx
from starlette.routing import compile_path

from headrace.action_provider.app import OPERATIONS
from headrace.action_provider.http import Operation
from headrace.schemas import validate

_MEDIA_TYPES = ("application/json", "application/schema+json")


def check_described(response: httpx.Response) -> None:
    """An httpx hook: fails when an answer of the API is not what `/openapi.json` says of it, and one of an action
    provider not what the schemas of these say."""
    if response.request.url.path.lstrip("/").startswith("actions/"):
        check_provider(response)
        return
    operation = _operation(response.request.method, response.request.url.path)
    media_type = response.headers.get("content-type", "").split(";")[0]
    if operation is None or (response.status_code < 400 and media_type in operation.other_types):
        return
    response.read()
    if response.status_code >= 400:
        validate("error", response.json())
        return
    assert response.status_code == operation.status or operation.may_wait or operation.status == 202, (
        f"{operation.name} answers {response.status_code}, its description says {operation.status}"
    )
    if operation.status == 204:
        assert not response.content
    elif operation.response_schema is not None:
        assert media_type in _MEDIA_TYPES
        validate(operation.response_schema, response.json())
    else:
        assert media_type == operation.response_type


def check_provider(response: httpx.Response) -> None:
    """Fails when an answer of an action provider is not of its one shape."""
    response.read()
    method, path = response.request.method, response.request.url.path.rstrip("/")
    status = response.status_code
    assert not response.has_redirect_location, f"{path} answers with a redirect"
    if method in ("OPTIONS", "HEAD") or status == 304:
        assert not response.content
        return
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    kind = check_document(document)
    assert (status >= 400) == (kind == "action-error")
    assert (status == 401) == ("www-authenticate" in response.headers)
    if kind == "action-status":
        # Clients append the operation to whatever address they were given, also to one with a query.
        bound = response.request.url.query.decode()
        last = (bound if "/" in bound else path).rsplit("/", 1)[-1]
        assert status in ((200, 202) if method == "POST" and last in ("run", "actions") else (200,))
    elif kind == "provider-description":
        assert response.headers["access-control-allow-origin"] == "*"


def check_document(document: Any) -> str:
    """Fails when this is no document of an action provider; gives the name of the schema that it satisfies."""
    kind = _kind(document)
    validate(kind, document)
    if kind == "action-status" and "completion_time" in document:
        assert document["start_time"] <= document["completion_time"]
    if kind == "action-log":
        assert len(document["entries"]) <= document["limit"]
    return kind


def _kind(document: Any) -> str:
    if isinstance(document, list):
        return "action-list"
    for name, kind in (("action_id", "action-status"), ("entries", "action-log"), ("code", "action-error")):
        if name in document:
            return kind
    return "provider-description"


def _operation(method: str, path: str) -> Operation | None:
    for operation, pattern in _patterns():
        if operation.method == method and pattern.match(path):
            return operation
    return None


@functools.cache
def _patterns() -> list[tuple[Operation, re.Pattern[str]]]:
    return [(operation, compile_path(operation.path)[0]) for operation in OPERATIONS]
