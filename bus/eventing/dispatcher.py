"""The dispatcher: matches events, sends deliveries, watches their results.

    event      taken from its bus by the one matcher consumer there; for each subscription that it fits, the
               delivery's bundle is stored. Acked when all of them are.
    result     taken from RESULTS; a success closes the delivery, a failure stores the next attempt in DELIVERIES with
               its time, the last failure stores a dead letter. Acked then.
    due        taken from DELIVERIES when its time has come; the attempt's bundle is stored. Acked then.

Where a subscription has flow control, the delivery is queued in DELIVERIES in place of its bundle; whichever dispatcher
holds the subscription's lease does the rest (`headrace.bus.eventing.flow.holder`).

Everything that is stored has an id or subject that follows from what it belongs to, so a dispatcher that dies at any
place, and another that repeats its work, have one effect between them. Any number of dispatchers may run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable

from headrace.bus import names
from headrace.bus.errors import DecodeError
from headrace.bus.eventing.announcements import Announcer
from headrace.bus.eventing.burials import Burials
from headrace.bus.eventing.deliveries import JOIN, Waiting
from headrace.bus.eventing.events import DEFAULT_BUS, CloudEvent
from headrace.bus.eventing.expiry import Expiry, expires
from headrace.bus.eventing.flow.holder import Tools
from headrace.bus.eventing.flow.keeper import Keeper
from headrace.bus.eventing.holds import Holds, limits_the_wait
from headrace.bus.eventing.joining import Joining
from headrace.bus.eventing.leases import Leases
from headrace.bus.eventing.matching import Matcher
from headrace.bus.eventing.outcomes import Outcomes
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.eventing.replays.replayer import Replayer, finder
from headrace.bus.eventing.replays.run import FindSubscription
from headrace.bus.eventing.rights import Rights
from headrace.bus.eventing.roster import Roster
from headrace.bus.eventing.schedules.replacing import Replacing
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.sending import Sender
from headrace.bus.eventing.served_buses import MOST_ACKS_PENDING, ServedBuses, ensure_matcher
from headrace.bus.eventing.sinks.runner import SinkRunner
from headrace.bus.eventing.sinks.settings import SinkSettings
from headrace.bus.eventing.starts import CatchUps
from headrace.bus.eventing.subscriptions import last_sequence
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.intake import ACK_WAIT_S, Intake
from headrace.bus.nats.pull import Delivery as Taken
from headrace.bus.nats.steadfast import run_steadfastly
from headrace.bus.queues.lanes import Lanes
from headrace.bus.queues.pools import Pools
from headrace.bus.store.streams import ensure_consumer
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.backlog import MOST_BUNDLES_PER_PRINCIPAL, Backlog
from headrace.bus.tasks.submission import DELIVERIES_GROUP

logger = logging.getLogger(__name__)

RESULTS_CONSUMER = "deliveries-results"
DUE_CONSUMER = "deliveries-due"


class Dispatcher:
    """Delivers the events of all buses. `run` until cancelled; what is under way then is done by the next one."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        tables: Tables,
        *,
        count: Callable[[str], None] = lambda _what: None,
        full_wait_s: float = 5.0,
        most_bundles_per_principal: int | None = MOST_BUNDLES_PER_PRINCIPAL,
        pools: Pools | None = None,
        sinks: SinkSettings | None = None,
    ) -> None:
        """`count` is told of events that were `matched`; of attempts that were `sent`, and how they `succeeded` or
        `failed`; of deliveries that are `postponed` (a queue is full), `queued` (flow control) or `given_up`.

        `full_wait_s` is how long a delivery waits for a full queue; `pools` are where functions run that need packages;
        `sinks` says where events may be sent by HTTP.
        """
        self._connection = connection
        self._keys = keys
        self._tables = tables
        self._count = count
        self._full_wait_s = full_wait_s
        self._rights = Rights(tables)
        self._runs = TickRuns(tables.schedule_progress, Replacing(connection, keys, tables))
        publishing = Publishing(connection, tables.buses, tables.users)
        self._announcer = Announcer(connection, publishing)
        self._joining = Joining(connection, tables.joins, tables.catch_ups, publishing)
        self._burials = Burials(connection, self._announcer, self._runs, count=count)
        lanes = Lanes(connection, keys, tables.lanes)
        self._sender = Sender(
            connection,
            keys,
            lanes,
            Backlog(lanes, per_principal=most_bundles_per_principal),
            self._rights,
            self._burials,
            self._runs,
            count=count,
            full_wait_s=full_wait_s,
            pools=pools,
        )
        self._tools = Tools(
            connection=connection,
            keys=keys,
            sender=self._sender,
            burials=self._burials,
            announcer=self._announcer,
            runs=self._runs,
            catch_ups=tables.catch_ups,
            count=count,
            full_wait_s=full_wait_s,
        )
        self._sinks = sinks or SinkSettings()
        self._roster = Roster(tables.subscriptions, {})

    async def run(self) -> None:
        """Deliver until cancelled. A lost bus is waited for."""
        await run_steadfastly(self._connection, self._run, who="dispatcher", logger=logger)

    async def _run(self) -> None:
        await self._ensure_consumers()
        newest = await last_sequence(self._connection)
        leases = Leases(self._tables.leases)
        keeper = Keeper(self._tools, leases)
        self._roster = Roster(self._tables.subscriptions, {DEFAULT_BUS: newest}, on_change=keeper.changed)
        matcher = Matcher(
            self._connection,
            self._roster,
            self._rights,
            self._sender,
            self._runs,
            self._joining,
            self._burials,
            count=self._count,
        )
        buses = ServedBuses(self._connection, self._roster, matcher)
        find = finder(self._tables.replays, self._roster.find)
        outcomes = Outcomes(
            self._connection,
            self._keys,
            find,
            self._burials,
            self._announcer,
            self._runs,
            count=self._count,
        )
        replayer = Replayer(self._connection, self._tables.replays, leases, self._sender, self._rights, find)
        async with contextlib.AsyncExitStack() as stack:
            # Before the first event is taken: an event must meet every subscription that was there when it came.
            for watched in (self._rights, self._roster):
                await watched.start()
                stack.push_async_callback(watched.stop)
            async with asyncio.TaskGroup() as group:
                group.create_task(matcher.intake(DEFAULT_BUS).run(), name="matcher of the default bus")
                group.create_task(buses.run(), name="matchers of other buses")
                results = Intake(self._connection, "RESULTS", RESULTS_CONSUMER, outcomes.on_result)
                group.create_task(results.run(), name="results of deliveries")
                due = Intake(self._connection, "DELIVERIES", DUE_CONSUMER, functools.partial(self._on_due, find))
                group.create_task(due.run(), name="due deliveries")
                group.create_task(matcher.catch_up(), name="late subscriptions")
                waits = self._roster.select(limits_the_wait)
                holds = Holds(self._connection, self._keys, self._tables.presence, waits.all)
                group.create_task(holds.run(), name="deliveries at endpoints that are away")
                group.create_task(leases.run(), name="leases")
                offer = functools.partial(matcher.offer, full_wait_s=self._full_wait_s)
                starts = CatchUps(self._roster, leases, self._tables.catch_ups, offer)
                group.create_task(starts.run(), name="subscriptions that start in the past")
                expiry = Expiry(
                    self._connection,
                    self._keys,
                    self._tables,
                    self._roster.select(expires).all,
                    results_consumer=RESULTS_CONSUMER,
                )
                group.create_task(expiry.run(), name="subscriptions that have expired")
                group.create_task(keeper.run(), name="queues of subscriptions")
                group.create_task(replayer.run(), name="replays")
                sinks = SinkRunner(self._connection, self._keys, self._tables, self._runs, leases, self._sinks)
                group.create_task(sinks.run(), name="sinks")
                logger.info("The dispatcher delivers events.", extra={"action": "dispatcher_ready"})

    async def _ensure_consumers(self) -> None:
        await ensure_matcher(self._connection, DEFAULT_BUS)
        filters = {
            ("RESULTS", RESULTS_CONSUMER): names.group_results(DELIVERIES_GROUP),
            ("DELIVERIES", DUE_CONSUMER): names.ALL_DUE_DELIVERIES,
        }
        for (stream, consumer), subject in filters.items():
            await ensure_consumer(
                self._connection,
                stream,
                consumer,
                filter_subjects=(subject,),
                ack_wait_s=ACK_WAIT_S,
                max_ack_pending=MOST_ACKS_PENDING,
            )

    async def _on_due(self, find: FindSubscription, taken: Taken) -> None:
        try:
            waiting = Waiting.decode(taken.data)
            if waiting.purpose == JOIN:
                await self._on_join_due(find, waiting)
                return
            event = CloudEvent.of_stored(waiting.event)
        except DecodeError as error:
            logger.error("A waiting delivery cannot be read and is dropped: %s", error, extra={"action": "dropped"})
            return
        subscription = await find(waiting.delivery.subscription)
        if subscription is not None:
            await self._sender.send(subscription, waiting.delivery, event)

    async def _on_join_due(self, find: FindSubscription, waiting: Waiting) -> None:
        subscription = await find(waiting.delivery.subscription)
        if subscription is not None:
            await self._joining.on_due(subscription, waiting, waiting.delivery.published_at)
