"""Garbage at every door: whatever comes, the answer is a refusal in the one shape, never an accident."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service import RunningService

from headrace.action_provider.app import OPERATIONS
from headrace.action_provider.http import Operation
from headrace.schemas import schema

IDS = [str(uuid.uuid4()), "x", "%00", "a" * 300, "%F0%9F%98%80", "..%2f..", "*", "%3E", "a%20b", "1" * 32]
VALUES: list[Any] = [None, True, -1, 1e308, "", "\x00", "💥" * 50, [], [[]], {}, {"a": {}}, "urn:x:y", 10**30]


def addresses(operation: Operation) -> Iterator[str]:
    for value in IDS if "{" in operation.path else IDS[:1]:
        yield re.sub(r"{[^}]+}", value, operation.path)


def bodies(operation: Operation) -> Iterator[Any]:
    yield from VALUES
    if operation.request_schema is None:
        return
    document = schema(operation.request_schema)
    properties = document.get("properties", {})
    examples = {name: _example(part) for name, part in properties.items()}
    for (name, _), value in itertools.product(properties.items(), VALUES):
        yield {**examples, name: value}


def _example(part: dict[str, Any]) -> Any:
    kind = part.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    return {"string": "3.11", "integer": 1, "number": 1, "boolean": False, "array": [], "object": {}}[kind]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_garbage_is_refused_in_the_one_shape(service: RunningService, operation: Operation) -> None:
    # A token of its own: some of the garbage is good enough to revoke one.
    http = service.http(service.http().post("/api/v1/tokens", json={}).json()["token"])
    for address in addresses(operation):
        _check(http.request(operation.method, address))
    for body in bodies(operation):
        _check(
            http.request(
                operation.method,
                next(addresses(operation)),
                content=httpx.Request("POST", "http://x", json=body).content,
                headers={"Content-Type": operation.request_type},
            )
        )


def _check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) == {"code", "detail", "errors"}
        assert len(answer.content) < 20_000
