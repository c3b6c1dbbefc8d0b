"""What runs beside the requests. A job that dies is told of and started again; HTTP goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from headrace.action_provider.auth.withdrawal import Revoker, end_sessions
from headrace.action_provider.failed_pools import keep_pools
from headrace.action_provider.mending import keep_lists
from headrace.action_provider.providers import Registry, keep_actions
from headrace.action_provider.removals import keep_removing
from headrace.action_provider.settings import ServiceSettings
from headrace.action_provider.state import Service
from headrace.action_provider.token_watch import watch_tokens
from headrace.bus.errors import BusError, BusUnavailable
from headrace.bus.eventing.bus_keeping import mend_buses
from headrace.bus.eventing.dispatcher import Dispatcher
from headrace.bus.eventing.feeds.feeder import Feeder
from headrace.bus.eventing.nats_door import NatsDoor
from headrace.bus.eventing.schedules.timer import Timer
from headrace.bus.eventing.sinks.settings import SinkSettings
from headrace.bus.eventing.waiter import Waiter
from headrace.bus.store.models import EndpointRecord, SessionRecord
from headrace.bus.store.objects import ObjectStore

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_GOOD_RUN_S = 60.0
_SWEEP_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A background task: `run` works until it is cancelled."""

    name: str
    run: Callable[[Service], Awaitable[None]]
    wanted: Callable[[ServiceSettings], bool]


async def dispatch(service: Service) -> None:
    """Deliver events until cancelled."""
    counter = service.metrics.deliveries
    dispatcher = Dispatcher(
        service.connection,
        service.keys,
        service.tables,
        count=lambda what: counter.labels(what).inc(),
        most_bundles_per_principal=service.settings.most_bundles_per_principal,
        pools=service.pools,
        sinks=SinkSettings(policy=service.settings.sinks, network=service.settings.network),
    )
    await dispatcher.run()


async def look_after_waits(service: Service) -> None:
    """Look at events for the actions that wait for them until cancelled."""
    await Waiter(service.connection, service.tables.actions).run()


async def write_ends(service: Service) -> None:
    """Write the ends of actions that are shown already until cancelled."""
    await service.tables.actions.write_ends()


async def tick(service: Service) -> None:
    """Publish the ticks of schedules until cancelled."""
    await Timer(service.connection, service.keys, service.tables).run()


async def keep_buses(service: Service) -> None:
    """Mend what crashes have left of buses, at the start and now and then, until cancelled."""
    while True:
        try:
            await mend_buses(service.connection, service.tables, replicas=service.settings.streams.replicas)
        except BusError as error:
            logger.warning("The buses are mended later: %s", error, extra={"action": "buses_not_mended"})
        await asyncio.sleep(service.settings.buses_mend_s)


async def read_feeds(service: Service) -> None:
    """Take messages of other systems until cancelled."""
    counter = service.metrics.feeds
    feeder = Feeder(
        service.connection,
        service.keys,
        service.tables,
        network=service.settings.network,
        count=lambda what, number: counter.labels(what).inc(number),
    )
    await feeder.run()


async def take_events(service: Service) -> None:
    """Take events that programs publish over NATS until cancelled."""
    counter = service.metrics.nats_events
    door = NatsDoor(
        service.connection,
        service.tables.sessions,
        service.publishing,
        count=lambda what: counter.labels(what).inc(),
    )
    await door.run()


async def revoke(service: Service) -> None:
    """Tell the NATS servers who is revoked until cancelled."""
    settings = service.settings
    await Revoker(settings.nats_url, service.revocation, service.tables, settings.network).run()


async def sweep(service: Service) -> None:
    """Remove what nothing needs from the object store, again and again until cancelled."""
    settings = service.settings
    store = ObjectStore(service.connection, service.tables, grace_s=settings.object_grace_s)
    while True:
        await asyncio.sleep(settings.object_sweep_s)
        try:
            swept = await store.sweep()
        except BusUnavailable as error:
            logger.info("The object store is swept later: %s", error, extra={"action": "objects_not_swept"})
            continue
        if swept.objects or swept.uploads:
            logger.info(
                "Removed %d objects that nothing needs, and %d uploads that nobody finished.",
                swept.objects,
                swept.uploads,
                extra={"action": "objects_swept"},
            )


async def keep_lanes(service: Service) -> None:
    """Sweep the lanes now and then, and at once on each new connection, until cancelled.

    The NATS server has their consumers in memory: one that was started again has none.
    """
    connected = asyncio.Event()
    service.connection.on_connected.append(connected.set)
    wait_s = service.settings.lanes_sweep_s
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await connected.wait()
            connected.clear()
            wait_s = service.settings.lanes_sweep_s
            try:
                await service.lanes.sweep()
            except BusError as error:
                wait_s = min(wait_s, _SWEEP_AGAIN_S)
                logger.warning(
                    "The lanes could not be swept (%s); trying again.", error, extra={"action": "sweep_failed"}
                )
    finally:
        service.connection.on_connected.remove(connected.set)


async def watch_queues(service: Service) -> None:
    """End the sessions of clients that have gone far beyond their limit, until cancelled."""

    async def find(endpoint_id: UUID) -> EndpointRecord | None:
        found = await service.tables.endpoints.get(endpoint_id.hex)
        return None if found is None else found.value

    while True:
        await asyncio.sleep(service.settings.queue_watch_s)
        try:
            async for endpoint, principal in service.backlog.excessive(find):
                await _cut_off(service, endpoint, principal)
        except BusError as error:
            logger.info("The queues are looked at later: %s", error, extra={"action": "queues_not_watched"})


async def _cut_off(service: Service, endpoint: EndpointRecord, principal: str) -> None:
    def submits(session: SessionRecord) -> bool:
        who = (session.kind, session.endpoint_id, session.principal)
        return who == ("sdk", endpoint.endpoint_id, principal) and session.may_submit

    if await end_sessions(service.tables, submits):
        logger.warning(
            "%s has far more queued at endpoint %s than the limit allows: those sessions end, and new ones cannot"
            " submit until there is room again.",
            principal,
            endpoint.endpoint_id,
            extra={"action": "queue_limit_exceeded", "endpoint_id": str(endpoint.endpoint_id)},
        )


BACKGROUND: tuple[Job, ...] = (
    Job(name="buses", run=keep_buses, wanted=lambda settings: True),
    Job(name="dispatcher", run=dispatch, wanted=lambda settings: settings.dispatcher),
    Job(name="ends", run=write_ends, wanted=lambda settings: True),
    Job(name="feeds", run=read_feeds, wanted=lambda settings: settings.dispatcher),
    Job(name="lanes", run=keep_lanes, wanted=lambda settings: True),
    Job(name="lists", run=keep_lists, wanted=lambda settings: True),
    Job(name="nats door", run=take_events, wanted=lambda settings: True),
    Job(name="pools", run=keep_pools, wanted=lambda settings: True),
    Job(name="queues", run=watch_queues, wanted=lambda settings: True),
    Job(name="removals", run=keep_removing, wanted=lambda settings: True),
    Job(name="revoker", run=revoke, wanted=lambda settings: True),
    Job(name="sweeper", run=sweep, wanted=lambda settings: True),
    # Where events are dispatched: without that a tick reaches nobody, and schedules have a policy for late ones.
    Job(name="timer", run=tick, wanted=lambda settings: settings.dispatcher),
    Job(name="token watch", run=watch_tokens, wanted=lambda settings: settings.auth.is_foreign),
    Job(name="waiter", run=look_after_waits, wanted=lambda settings: settings.dispatcher),
)


def keeping(registry: Registry) -> Job:
    """The job that ends actions which nobody asks for."""
    return Job(name="actions", run=functools.partial(keep_actions, registry), wanted=lambda settings: True)


async def keep_running(job: Job, service: Service, *, first_pause_s: float = _FIRST_PAUSE_S) -> None:
    """Run a job for ever: when it ends, start it again after a pause that grows while it keeps dying."""
    loop = asyncio.get_running_loop()
    pause_s = first_pause_s
    while True:
        began = loop.time()
        try:
            await job.run(service)
            logger.error("The %s ended by itself; starting it again.", job.name, extra={"action": "job_ended"})
        except Exception:
            logger.exception(
                "The %s died; starting it again in %.1f s.", job.name, pause_s, extra={"action": "job_died"}
            )
        if loop.time() - began > _GOOD_RUN_S:
            pause_s = first_pause_s
        service.metrics.job_restarts.labels(job.name).inc()
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
