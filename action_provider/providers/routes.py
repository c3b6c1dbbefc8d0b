"""The HTTP face of all providers: both styles of routes, who may do what, and one shape of errors.

    introspect   GET    B                 (public)
    run          POST   B/run             POST   B/actions
    status       GET    B/{id}/status     GET    B/actions/{id}
    cancel       POST   B/{id}/cancel     POST   B/actions/{id}/cancel
    release      POST   B/{id}/release    DELETE B/actions/{id}
    log          GET    B/{id}/log        GET    B/actions/{id}/log
    enumerate    GET    B/actions

Slashes may be doubled or trail: clients join addresses in many ways, and none of them likes a redirect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.bodies import read_json
from headrace.action_provider.errors import Conflict, Forbidden, MethodNotAllowed, NotFound
from headrace.action_provider.http import reply
from headrace.action_provider.providers.documents import error_response, status_document
from headrace.action_provider.providers.logs import log_page
from headrace.action_provider.providers.provider import ActionRow, Provider
from headrace.action_provider.providers.requests import ActionRequest
from headrace.action_provider.routing import authenticate
from headrace.action_provider.state import Service

_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
_PREFLIGHT = {**_CORS, "Access-Control-Allow-Methods": "GET, OPTIONS", "Access-Control-Allow-Headers": "*"}
_ROLES = ("creator_id", "monitor_by", "manage_by")
_STATES = ("ACTIVE", "INACTIVE", "SUCCEEDED", "FAILED")
_BUSY_TRIES = 5


def routes_of(providers: Iterable[Provider]) -> Sequence[Route]:
    """Routes for these providers."""
    return [Route(f"{provider.path}{{rest:path}}", ProviderApp(provider)) for provider in providers]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """One request to one provider."""

    request: Request
    service: Service
    provider: Provider
    action_id: str = ""

    async def caller(self) -> Caller:
        """Who asks. Raises `Unauthenticated` and `Forbidden`."""
        caller = await authenticate(self.request, self.service)
        if caller.endpoint_id is not None:
            raise Forbidden("this is the token of an endpoint, which runs no actions; use a user's token")
        return caller

    async def action(self, caller: Caller, *, manage: bool) -> ActionRow:
        """The action in the path, if the caller may monitor (or manage) it. Raises `NotFound`."""
        found = await self.service.tables.actions.by_id(self.action_id)
        if found is None or found.value.provider != self.provider.path or not await _may(caller, found, manage=manage):
            raise NotFound(f"there is no action {self.action_id[:80]!r}, or it is not yours to see")
        return found


_Handler = Callable[[_Visit], Coroutine[Any, Any, Response]]


class ProviderApp:
    """Everything below one provider's path."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        service: Service = request.state.service
        method = "GET" if request.method == "HEAD" else request.method
        started = time.perf_counter()
        service.metrics.open_requests.inc()
        label, response = await self._answer(request, service, method)
        try:
            await response(scope, receive, send)
        finally:
            service.metrics.open_requests.dec()
            service.metrics.latency.labels(method, label).observe(time.perf_counter() - started)
            service.metrics.requests.labels(method, label, str(response.status_code)).inc()

    async def _answer(self, request: Request, service: Service, method: str) -> tuple[str, Response]:
        name = f"{self._provider.path}/other"
        try:
            handler, name, action_id = self._find(request, method)
            visit = _Visit(request=request, service=service, provider=self._provider, action_id=action_id)
            async with asyncio.timeout(service.settings.request_timeout_s + service.settings.run_wait_s):
                return name, await handler(visit)
        except Exception as error:
            return name, error_response(error, route=name)

    def _find(self, request: Request, method: str) -> tuple[_Handler, str, str]:
        rest = str(request.path_params["rest"])
        steps = [step for step in rest.split("/") if step]
        if rest and not rest.startswith("/"):
            raise NotFound(f"there is nothing at {request.url.path[:200]!r}")
        by_method, place, action_id = _place(steps)
        handler = by_method.get(method)
        if handler is None:
            if not by_method:
                raise NotFound(f"there is nothing at {request.url.path[:200]!r}")
            allowed = ", ".join(sorted(by_method))
            raise MethodNotAllowed(f"this takes {allowed}, not {method[:20]}", headers={"Allow": allowed})
        return handler, f"{self._provider.path}{place}", action_id


def _place(steps: list[str]) -> tuple[dict[str, _Handler], str, str]:
    """Handlers by method, the place's name and the action's id."""
    match steps:
        case []:
            return {"GET": _introspect, "OPTIONS": _preflight}, "", ""
        case ["run"]:
            return {"POST": _run}, "/run", ""
        case ["actions"]:
            return {"POST": _run, "GET": _enumerate}, "/actions", ""
        case ["actions", action_id]:
            return {"GET": _status, "DELETE": _release}, "/actions/{id}", action_id
        case ["actions", action_id, verb] | [action_id, verb] if verb in _VERBS:
            return _VERBS[verb], f"/{{id}}/{verb}", action_id
        case _:
            return {}, "", ""


async def _introspect(visit: _Visit) -> Response:
    return reply(visit.provider.introspect(), headers=_CORS)


async def _preflight(_visit: _Visit) -> Response:
    return Response(status_code=204, headers=_PREFLIGHT)


async def _run(visit: _Visit) -> Response:
    caller = await visit.caller()
    settings = visit.service.settings
    document = await read_json(visit.request, limit=settings.body_bytes, timeout_s=settings.body_timeout_s)
    request = ActionRequest.read(document)
    start = await visit.provider.run(visit.service, caller, request)
    return reply(status_document(start.record.value), 202 if start.created else 200)


async def _status(visit: _Visit) -> Response:
    action = await visit.action(await visit.caller(), manage=False)
    return reply(status_document((await visit.provider.status(visit.service, action)).value))


async def _cancel(visit: _Visit) -> Response:
    action = await visit.action(await visit.caller(), manage=True)
    return reply(status_document((await visit.provider.cancel(visit.service, action)).value))


async def _release(visit: _Visit) -> Response:
    action = await visit.action(await visit.caller(), manage=True)
    action = await visit.provider.status(visit.service, action)
    if not action.value.final:
        raise Conflict("Cannot release incomplete Action: cancel it first, or wait for its end")
    await visit.provider.release(visit.service, action)
    await visit.service.tables.actions.release(action)
    return reply(status_document(action.value))


async def _log(visit: _Visit) -> Response:
    action = await visit.action(await visit.caller(), manage=False)
    return reply(log_page(await visit.provider.log(visit.service, action), visit.request.query_params))


async def _resume(visit: _Visit) -> Response:
    # Nothing of ours is ever INACTIVE: there is nothing to resume, and a repeated call finds the action as it is.
    action = await visit.action(await visit.caller(), manage=True)
    return reply(status_document((await visit.provider.status(visit.service, action)).value))


async def _enumerate(visit: _Visit) -> Response:
    caller = await visit.caller()
    states = _chosen(visit.request.query_params.get("status"), _STATES, ("ACTIVE",))
    roles = _chosen(visit.request.query_params.get("roles"), _ROLES, ("creator_id",))
    documents = []
    for found in await visit.service.tables.actions.of_creator(caller.principal) if "creator_id" in roles else ():
        if found.value.provider == visit.provider.path:
            action = (await visit.provider.status(visit.service, found)).value
            if action.status in states:
                documents.append(status_document(action))
    return reply(documents)


_VERBS: dict[str, dict[str, _Handler]] = {
    "status": {"GET": _status},
    "cancel": {"POST": _cancel},
    "release": {"POST": _release},
    "resume": {"POST": _resume},
    "log": {"GET": _log},
}


async def _may(caller: Caller, action: ActionRow, *, manage: bool) -> bool:
    allowed = action.value.manage_by if manage else action.value.monitor_by
    return caller.is_(action.value.creator) or bool(await caller.among(allowed))


def _chosen(given: str | None, known: tuple[str, ...], default: tuple[str, ...]) -> set[str]:
    wanted = {name.strip().lower() for name in (given or "").split(",")}
    return {name for name in known if name.lower() in wanted} or set(default)
