"""The HTTP face of all providers: both styles of routes, who may do what, and one shape of errors.

introspect   GET    B
run          POST   B/run             POST   B/actions
status       GET    B/{id}/status     GET    B/actions/{id}
cancel       POST   B/{id}/cancel     POST   B/actions/{id}/cancel
release      POST   B/{id}/release    DELETE B/actions/{id}
log          GET    B/{id}/log        GET    B/actions/{id}/log
resume       POST   B/{id}/resume     POST   B/actions/{id}/resume
enumerate    GET    B/actions
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.bodies import read_json
from headrace.action_provider.conditional import kept_reply
from headrace.action_provider.errors import Conflict, Forbidden, MethodNotAllowed, NotFound
from headrace.action_provider.http import reply
from headrace.action_provider.provider_access import PUBLIC, Access
from headrace.action_provider.providers import lives
from headrace.action_provider.providers.documents import description_document, error_response, status_document
from headrace.action_provider.providers.lists import Wanted, enumerate_actions
from headrace.action_provider.providers.logs import log_page
from headrace.action_provider.providers.permissions import may_manage, may_monitor, may_run, may_see
from headrace.action_provider.providers.provider import ActionRow
from headrace.action_provider.providers.registry import Place, Registry
from headrace.action_provider.providers.requests import ActionRequest
from headrace.action_provider.routing import authenticate
from headrace.action_provider.state import Service

_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
_PREFLIGHT = {**_CORS, "Access-Control-Allow-Methods": "GET, OPTIONS", "Access-Control-Allow-Headers": "*"}
_PLACE = "headrace.provider"


class ProvidersRoute(BaseRoute):
    """Everything at and below the paths of all providers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a provider answers at the request's address."""
        if scope["type"] == "http":
            place = self._registry.find(scope["path"], scope["query_string"].decode("latin-1"))
            if place is not None:
                return Match.FULL, {_PLACE: place}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count."""
        request = Request(scope, receive)
        service: Service = request.state.service
        method = "GET" if request.method == "HEAD" else request.method
        started = time.perf_counter()
        service.metrics.open_requests.inc()
        label, response = await _answer(request, service, scope[_PLACE], method)
        try:
            await response(scope, receive, send)
        finally:
            service.metrics.open_requests.dec()
            service.metrics.answered(method, label, response.status_code, took_s=time.perf_counter() - started)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """One request to one provider."""

    request: Request
    service: Service
    place: Place
    action_id: str = ""

    async def access(self) -> Access:
        """Who may do what here. Raises `NotFound`."""
        return await self.place.provider.access(self.service, self.place.at)

    async def caller(self) -> Caller:
        """Who asks. Raises `Unauthenticated` and `Forbidden`."""
        caller = await authenticate(self.request, self.service)
        if caller.endpoint_id is not None:
            raise Forbidden("this is the token of an endpoint, which runs no actions; use a user's token")
        return caller

    async def runner(self) -> Caller:
        """Who asks, and may run actions here. Raises `Unauthenticated`, `Forbidden` and `NotFound`."""
        caller = await self.caller()
        if not await may_run(caller, await self.access()):
            raise Forbidden(f"you are not among those who may run actions of {self.place.at.path}")
        return caller

    async def action(self, caller: Caller, *, manage: bool) -> ActionRow:
        """The action in the path, if the caller may monitor (or manage) it. Raises `NotFound`."""
        found = await self.service.tables.actions.by_id(self.action_id)
        may = may_manage if manage else may_monitor
        if (
            found is None
            or found.value.provider != self.place.at.path
            or not await may(caller, found.value, await self.access())
        ):
            raise NotFound(f"there is no action {self.action_id[:80]!r}, or it is not yours to see")
        return found


_Handler = Callable[[_Visit], Coroutine[Any, Any, Response]]


async def _answer(request: Request, service: Service, place: Place, method: str) -> tuple[str, Response]:
    name = f"{place.provider.path}/other"
    try:
        handler, where, action_id = _found(request, place, method)
        name = place.provider.path + where
        visit = _Visit(request=request, service=service, place=place, action_id=action_id)
        async with asyncio.timeout(service.settings.request_timeout_s + service.settings.run_wait_s):
            return name, await handler(visit)
    except Exception as error:
        return name, error_response(error, route=name)


def _found(request: Request, place: Place, method: str) -> tuple[_Handler, str, str]:
    by_method, where, action_id = _operation(place.steps)
    handler = by_method.get(method)
    if handler is None:
        if not by_method:
            raise NotFound(f"there is nothing at {request.url.path[:200]!r}")
        allowed = ", ".join(sorted(by_method))
        raise MethodNotAllowed(f"this takes {allowed}, not {method[:20]}", headers={"Allow": allowed})
    return handler, where, action_id


def _operation(steps: Sequence[str]) -> tuple[dict[str, _Handler], str, str]:
    """Handlers by method, the operation's place for the metrics, and the action's id."""
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
    access = await visit.access()
    if PUBLIC not in access.visible_to and not await may_see(await visit.caller(), access):
        raise Forbidden(f"you are not among those who may see {visit.place.at.path}")
    description = await visit.place.provider.describe(visit.service, visit.place.at)
    document = description_document(description, access, visit.service.settings)
    return kept_reply(visit.request, document, for_everybody=PUBLIC in access.visible_to, headers=_CORS)


async def _preflight(_visit: _Visit) -> Response:
    return Response(status_code=204, headers=_PREFLIGHT)


async def _run(visit: _Visit) -> Response:
    caller = await visit.runner()
    settings = visit.service.settings
    document = await read_json(visit.request, limit=settings.body_bytes, timeout_s=settings.body_timeout_s)
    request = ActionRequest.read(document)
    start = await lives.run(visit.service, visit.place, caller, request)
    return reply(status_document(start.record.value), 202 if start.created else 200)


async def _status(visit: _Visit) -> Response:
    action = await visit.action(await visit.caller(), manage=False)
    return reply(status_document((await lives.status(visit.service, visit.place.provider, action)).value))


async def _cancel(visit: _Visit) -> Response:
    action = await visit.action(await visit.caller(), manage=True)
    return reply(status_document((await lives.cancel(visit.service, visit.place.provider, action)).value))


async def _resume(visit: _Visit) -> Response:
    caller = await visit.caller()
    action = await visit.action(caller, manage=True)
    return reply(status_document((await lives.resume(visit.service, visit.place, caller, action)).value))


async def _release(visit: _Visit) -> Response:
    action = await visit.action(await visit.caller(), manage=True)
    action = await lives.status(visit.service, visit.place.provider, action)
    if not action.value.final:
        raise Conflict("Cannot release incomplete Action: cancel it first, or wait for its end")
    await visit.place.provider.release(visit.service, action)
    await visit.service.tables.actions.release(action)
    return reply(status_document(action.value))


async def _log(visit: _Visit) -> Response:
    action = await visit.action(await visit.caller(), manage=False)
    entries = await lives.log(visit.service, visit.place.provider, action)
    return reply(log_page(entries, visit.request.query_params))


async def _enumerate(visit: _Visit) -> Response:
    caller, place = await visit.runner(), visit.place
    wanted = Wanted.of_query(visit.request.query_params)
    page = await enumerate_actions(visit.service, place.provider, place.at.path, caller, wanted)
    headers = {"Link": f'<{wanted.address(visit.request.url.path, page.marker)}>; rel="next"'} if page.marker else None
    return reply([status_document(action) for action in page.actions], headers=headers)


_VERBS: dict[str, dict[str, _Handler]] = {
    "status": {"GET": _status},
    "cancel": {"POST": _cancel},
    "release": {"POST": _release},
    "resume": {"POST": _resume},
    "log": {"GET": _log},
}
