"""From operations to an ASGI router: authenticate, read, validate, call, answer, count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.bodies import read_json
from headrace.action_provider.errors import (
    AddressTooLong,
    Answer,
    Forbidden,
    InvalidRequest,
    MalformedRequest,
    MethodNotAllowed,
    Unauthenticated,
    answer_to,
)
from headrace.action_provider.http import Call, Operation, reply
from headrace.action_provider.protocol import check_protocol
from headrace.action_provider.state import Service
from headrace.schemas import Violation, validate

_NO_TOKEN = "this needs a token: send the header `Authorization: Bearer TOKEN`"  # noqa: S105  # a sentence
_UNKNOWN_TOKEN = "this token is not known here; get one with `headrace token create`"  # noqa: S105  # likewise
_TOKEN_BYTES = 65_536
"""Tokens of other systems may be long; nobody sends longer ones than this through the proxies of this world."""


class PathApp:
    """Answers all methods of one path."""

    def __init__(self, path: str, operations: Iterable[Operation]) -> None:
        self.path = path
        self._by_method = {operation.method: operation for operation in operations}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        service: Service = request.state.service
        method = "GET" if request.method == "HEAD" else request.method
        started = time.perf_counter()
        service.metrics.open_requests.inc()
        response = await self._answer(request, service, method)
        try:
            await response(scope, receive, send)
        finally:
            label = method if method in self._by_method else "other"
            service.metrics.open_requests.dec()
            service.metrics.answered(label, self.path, response.status_code, took_s=time.perf_counter() - started)

    async def _answer(self, request: Request, service: Service, method: str) -> Response:
        try:
            operation = self._by_method.get(method)  # type: ignore[call-overload]  # any text may be looked up
            if operation is None:
                raise self._not_allowed(request.method)
            return await answer(operation, request, service)
        except Exception as error:
            return error_response(answer_to(error, route=f"{request.method} {self.path}"))

    def _not_allowed(self, method: str) -> MethodNotAllowed:
        allowed = ", ".join(sorted(self._by_method))
        return MethodNotAllowed(f"{self.path} does not take {method[:20]}, only {allowed}", headers={"Allow": allowed})


async def answer(operation: Operation, request: Request, service: Service) -> Response:
    """Carry out one request. Raises what the caller is to be told."""
    _check_address(operation, request, service)
    call = Call(request=request, service=service, operation=operation)
    settings = service.settings
    async with asyncio.timeout(settings.request_timeout_s):
        await _authorise(call)
    await _read_body(call)
    wait_s = settings.longest_wait_s if operation.may_wait else 0.0
    async with asyncio.timeout(None if operation.streams else settings.request_timeout_s + wait_s):
        return await operation.handler(call)


def routes_of(operations: Iterable[Operation]) -> Sequence[Route]:
    """Starlette routes for operations, in the order in which their paths come first."""
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(path, PathApp(path, group)) for path, group in by_path.items()]


def error_response(error: Answer) -> Response:
    """An error in its one shape."""
    return reply(error.body(), error.status, error.headers)


def _check_address(operation: Operation, request: Request, service: Service) -> None:
    limit = service.settings.address_bytes
    if len(request.scope["path"]) + len(request.scope["query_string"]) > limit:
        raise AddressTooLong(f"path and query are longer than the limit of {limit} bytes")
    if operation.any_query:
        return
    known = {query.name for query in operation.query}
    for name in request.query_params:
        if name not in known:
            detail = f"unknown query parameter {name[:80]!r}; known here: {', '.join(sorted(known)) or 'none'}"
            raise InvalidRequest(detail, violations=(Violation(pointer=f"?{name[:80]}", problem="is not known"),))


async def _authorise(call: Call) -> None:
    operation = call.operation
    if operation.auth in ("none", "own"):
        return
    caller = await authenticate(call.request, call.service, for_publishers=operation.for_publishers)
    if caller.endpoint_id is not None:
        _check_endpoint_token(caller, operation, call.request)
    elif operation.auth == "endpoint":
        raise Forbidden("only the endpoint itself may do this, with the token that its registration gave")
    elif operation.auth == "admin" and not caller.admin:
        raise Forbidden("only an administrator may do this")
    call.known_caller = caller


def bearer_of(request: Request) -> str:
    """The bearer token of a request. Raises `Unauthenticated`."""
    header = request.headers.get("authorization", "")
    if not header:
        raise Unauthenticated(_NO_TOKEN)
    scheme, _, bearer = header.partition(" ")
    bearer = bearer.strip()
    if scheme.lower() != "bearer" or not bearer:
        raise Unauthenticated(f"the Authorization header has another form; {_NO_TOKEN}", problem="invalid_request")
    if len(bearer) > _TOKEN_BYTES or not bearer.isascii():
        raise Unauthenticated(_UNKNOWN_TOKEN, problem="invalid_token")
    return bearer


async def authenticate(request: Request, service: Service, *, for_publishers: bool = False) -> Caller:
    """Who holds the request's token. Raises `Unauthenticated`, `Forbidden` when it is for another service, or may only
    publish and this is not `for_publishers`, and `Unavailable` or `BusUnavailable` when nobody can be asked."""
    bearer = bearer_of(request)
    if not service.connection.connected:
        await service.connection.wait_connected(service.settings.bus_wait_s)
    caller = await service.authenticators.authenticate(bearer)
    if caller.publishes is not None and not for_publishers:
        raise Forbidden("this token may only publish events; use another one")
    return caller


def _check_endpoint_token(caller: Caller, operation: Operation, request: Request) -> None:
    if operation.auth == "publisher":
        return
    if operation.auth not in ("endpoint", "either"):
        raise Forbidden("this is the token of an endpoint, which may only act for its endpoint; use a user's token")
    try:
        same = UUID(str(request.path_params.get("endpoint_id"))) == caller.endpoint_id
    except ValueError:
        same = False
    if not same:
        raise Forbidden(f"this token may only act for endpoint {caller.endpoint_id}")


async def _read_body(call: Call) -> None:
    operation, settings = call.operation, call.service.settings
    if operation.request_schema is None or not operation.reads_body:
        return
    limit: int = getattr(settings, operation.body_setting)
    body = await read_json(call.request, limit=limit, timeout_s=settings.body_timeout_s)
    if body is None:
        if operation.body_required:
            raise MalformedRequest(f"this needs a JSON body; its schema is /schemas/{operation.request_schema}")
        return
    if operation.speaks_protocol:
        check_protocol(body)
    validate(operation.request_schema, body)
    call.body = body
