"""The application: a value made from settings. The lifespan opens the bus and owns what runs beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from headrace.action_provider.api import (
    bus_credentials,
    buses,
    dead_letters,
    endpoint_tasks,
    endpoints,
    events,
    feeds,
    filter_trials,
    functions,
    groups,
    hook_deliveries,
    hooks,
    logs,
    objects,
    pools,
    presence,
    queues,
    replays,
    schedules,
    sessions,
    shares,
    stored_events,
    subscriptions,
    system,
    task_lists,
    tasks,
    traces,
    users,
    wanted_pools,
)
from headrace.action_provider.auth.authenticators import Authenticators
from headrace.action_provider.auth.first_admin import ensure_admin
from headrace.action_provider.auth.live_tokens import LiveTokens
from headrace.action_provider.background import BACKGROUND, keep_running, keeping
from headrace.action_provider.clock import check_clock
from headrace.action_provider.errors import Answer, ServiceUnusable, answer_to
from headrace.action_provider.event_stream import Places
from headrace.action_provider.http import Operation, reply
from headrace.action_provider.leftovers import LeftoversDropped
from headrace.action_provider.metrics import Metrics
from headrace.action_provider.openapi import describe
from headrace.action_provider.pages import page
from headrace.action_provider.providers import PROVIDERS, ProvidersRoute, Registry
from headrace.action_provider.routing import error_response, routes_of
from headrace.action_provider.settings import ServiceSettings
from headrace.action_provider.state import Service, State
from headrace.bus.errors import BusError, BusUnavailable, KeysUnusable
from headrace.bus.installation.nats_binary import OLDEST_VERSION
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.gathering import Gatherings
from headrace.bus.queues.lanes import Lanes
from headrace.bus.queues.pools import Pools
from headrace.bus.store import streams
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.backlog import Backlog

logger = logging.getLogger(__name__)

_CONNECT_S = 2.0
"""How long one try to connect may take."""
_KNOCK_S = 0.1
"""Services are few, and after a restart of the NATS server pools and clients wait for one to make their lanes again."""

OPERATIONS: tuple[Operation, ...] = (
    *system.ROUTES,
    *functions.ROUTES,
    *endpoints.ROUTES,
    *shares.ROUTES,
    *presence.ROUTES,
    *queues.ROUTES,
    *pools.ROUTES,
    *wanted_pools.ROUTES,
    *objects.ROUTES,
    *sessions.ROUTES,
    *tasks.ROUTES,
    *task_lists.ROUTES,
    *endpoint_tasks.ROUTES,
    *logs.ROUTES,
    *events.ROUTES,
    *buses.ROUTES,
    *bus_credentials.ROUTES,
    *feeds.ROUTES,
    *traces.ROUTES,
    *stored_events.ROUTES,
    *schedules.ROUTES,
    *subscriptions.ROUTES,
    *hooks.ROUTES,
    *hook_deliveries.ROUTES,
    *filter_trials.ROUTES,
    *dead_letters.ROUTES,
    *replays.ROUTES,
    *users.ROUTES,
    *groups.ROUTES,
)
"""Every route of the service, in the order of its documentation."""


def create_app(
    settings: ServiceSettings, operations: Sequence[Operation] = OPERATIONS, registry: Registry = PROVIDERS
) -> Starlette:
    """The service's application. Nothing is opened before its lifespan begins."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        async with open_service(settings, registry) as service:
            yield {"service": service}

    app = _Application(
        providers=ProvidersRoute(registry),
        routes=[*routes_of(operations), *_description_routes(operations, registry)],
        lifespan=lifespan,
        middleware=[Middleware(LeftoversDropped)],
        exception_handlers={HTTPException: _on_http_exception, Exception: _on_exception},
    )
    app.router.redirect_slashes = False
    return app


class _Application(Starlette):
    """Starlette, with a short way to the providers: they are asked most, and answer their errors themselves."""

    def __init__(self, *, providers: ProvidersRoute, **options: Any) -> None:
        super().__init__(**options)
        self._providers = providers
        self._to_providers = LeftoversDropped(providers.handle)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        match, found = self._providers.matches(scope)
        if match is Match.FULL:
            scope.update(found)
            await self._to_providers(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


@contextlib.asynccontextmanager
async def open_service(settings: ServiceSettings, registry: Registry = PROVIDERS) -> AsyncIterator[Service]:
    """Connect, bring the bus to what the service needs, and keep the background tasks going until the end.

    Raises `ServiceUnusable`, `KeysUnusable` and `BusError` when the service cannot work here.
    """
    keys = ServiceKeys.load(settings.keys_dir)
    async with contextlib.AsyncExitStack() as stack:
        connection = await _connect(settings, keys)
        stack.push_async_callback(connection.close)
        version = check_server(connection.server_version)
        tables = Tables.on(connection)
        await _prepare(connection, tables, settings)
        lanes = Lanes(connection, keys.key_ring(), tables.lanes)
        # What an earlier release left gives way before anybody gets a credential.
        await lanes.sweep()
        pool_records = Pools(connection, lanes, tables.pools, failed_kept_s=settings.failed_pools_kept_s)
        stack.push_async_callback(pool_records.stop)
        await pool_records.start()
        authenticators = await stack.enter_async_context(
            Authenticators.opened(settings.auth, tables, cache_s=settings.token_cache_s)
        )
        service = Service(
            settings=settings,
            connection=connection,
            gatherings=Gatherings(connection),
            tables=tables,
            keys=keys.key_ring(),
            lanes=lanes,
            pools=pool_records,
            backlog=Backlog(
                lanes, per_principal=settings.most_bundles_per_principal, pools_of=pool_records.awake_of_principal
            ),
            minter=keys.minter,
            revocation=keys.revocation,
            authenticators=authenticators,
            live_tokens=LiveTokens(),
            metrics=Metrics(),
            followers=Places(settings.most_followers),
        )
        logger.info(
            "The bus at %s is open (NATS %s).",
            settings.nats_url,
            version,
            extra={"action": "bus_opened", "url": settings.nats_url},
        )
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(keep_running(job, service), name=job.name)
                for job in (*BACKGROUND, keeping(registry))
                if job.wanted(settings)
            ]
            yield service
            service.stopping.set()
            for task in background:
                task.cancel()


async def _connect(settings: ServiceSettings, keys: ServiceKeys) -> Connection:
    deadline = asyncio.get_running_loop().time() + settings.start_timeout_s
    while True:
        connection = Connection(
            [settings.nats_url],
            keys.core,
            name="headrace service",
            connect_timeout_s=min(_CONNECT_S, settings.start_timeout_s),
            network=settings.network,
            longest_wait_s=_KNOCK_S,
        )
        try:
            await connection.open()
            return connection
        except BusUnavailable as error:
            await connection.close()
            if asyncio.get_running_loop().time() >= deadline:
                raise ServiceUnusable(
                    f"no NATS server answers at {settings.nats_url} within {settings.start_timeout_s:g} s ({error});"
                    " start one, or give the address of another with --nats-url"
                ) from error
        await asyncio.sleep(0.1)


def check_server(said: str) -> str:
    """The version of a NATS server. Raises `ServiceUnusable` when it is too old to work with."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    version = found[0] if found else said
    if found is None or tuple(map(int, found.groups())) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ServiceUnusable(
            f"the NATS server is version {version}; Headrace needs {oldest} or newer: upgrade it, or give the address"
            " of another with --nats-url"
        )
    return version


async def _prepare(connection: Connection, tables: Tables, settings: ServiceSettings) -> None:
    try:
        await streams.ensure(connection, settings.streams)
        await check_clock(connection, settings.nats_url)
        await tables.ensure(replicas=settings.streams.replicas)
        await tables.listen()
        # Where the installation's own keys lie, there an administrator is at home.
        at_home = (settings.keys_dir / "operator.json").exists()
        await ensure_admin(tables, settings.home, write=at_home)
    except KeysUnusable:
        raise
    except BusError as error:
        raise ServiceUnusable(f"the NATS server at {settings.nats_url} cannot be used: {error}") from error


def _description_routes(operations: Sequence[Operation], registry: Registry) -> list[Route]:
    cached: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not cached:
            cached.update(describe(operations, [provider.path for provider in registry.providers]))
        return cached

    async def openapi(_: Request) -> Response:
        return reply(document())

    async def docs(_: Request) -> Response:
        return HTMLResponse(page(document()))

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


async def _on_http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        detail = f"there is nothing at {request.url.path[:200]}; /docs lists what is there"
        return error_response(Answer(404, "NotFound", detail))
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    code = "MethodNotAllowed" if status == 405 else "HttpError"
    return error_response(Answer(status, code, f"{request.url.path[:200]} does not take this", headers=headers))


async def _on_exception(request: Request, error: Exception) -> Response:
    return error_response(answer_to(error, route=f"{request.method} {request.url.path[:200]}"))
