"""What the service says about itself: health, metrics, OpenAPI, its page, schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from service import RunningService

from headrace.action_provider.app import OPERATIONS
from headrace.schemas import check_schema, schema_names

METHODS = {"get", "put", "post", "delete", "patch", "options"}


@pytest.fixture(scope="module")
def document(service: RunningService) -> dict[str, Any]:
    found: dict[str, Any] = service.http("").get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_health_and_readiness_need_no_token(service: RunningService) -> None:
    assert service.http("").get("/healthz").json()["status"] == "ok"
    assert service.http("").get("/readyz").json()["status"] == "ready"


def test_the_document_has_the_fields_that_openapi_3_1_asks_for(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(document["info"])
    identifiers = []
    for path, method, operation in operations(document):
        assert path.startswith("/")
        assert method in METHODS
        identifiers.append(operation["operationId"])
        assert operation["responses"]
        for response in operation["responses"].values():
            assert "$ref" in response or response["description"]
        for media in (operation.get("requestBody") or {}).get("content", {}).values():
            assert "schema" in media
    assert len(set(identifiers)) == len(identifiers)


def test_every_path_parameter_is_described_and_no_other(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        described = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", path)), path
        assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")


def test_every_reference_leads_somewhere_and_every_schema_is_one(document: dict[str, Any]) -> None:
    for reference in references(document):
        target: Any = document
        assert reference.startswith("#/")
        for step in reference[2:].split("/"):
            target = target[step]
    for schema in document["components"]["schemas"].values():
        check_schema(schema)


def test_every_route_of_the_table_is_in_the_document(document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, method, _ in operations(document)}
    assert described == {(o.method, re.sub(r":\w+}", "}", o.path)) for o in OPERATIONS}


def test_everything_but_the_public_pages_names_the_token(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        assert bool(operation["security"]) == path.startswith("/api/"), path


def test_the_page_shows_every_operation_and_loads_nothing_from_elsewhere(
    service: RunningService, document: dict[str, Any]
) -> None:
    response = service.http("").get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    for _, _, operation in operations(document):
        assert f'id="{operation["operationId"]}"' in response.text
    assert "<script" not in response.text
    assert not re.search(r'(src|href)="(https?:)?//', response.text)


def test_schemas_are_served_under_their_names(service: RunningService) -> None:
    http = service.http("")
    names = http.get("/schemas").json()["schemas"]
    assert names == list(schema_names())
    for path in ("/schemas/error", "/schemas/error.json"):
        assert http.get(path).json()["title"] == "Error"
    assert http.get("/schemas/..%2fpyproject").status_code == 404
    assert http.get("/schemas/nothing").status_code == 404


def test_metrics_count_requests_by_route_and_not_by_address(service: RunningService) -> None:
    http = service.http()
    for _ in range(3):
        http.get("/api/v1/functions/not-there")
    text = http.get("/metrics").text
    label = 'method="GET",route="/api/v1/functions/{function_id}",status="404"'
    assert f"headrace_http_requests_total{{{label}}} 3.0" in text
    assert "headrace_http_request_seconds_bucket" in text
    assert "not-there" not in text
