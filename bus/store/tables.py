"""The buckets of records that the service, its replicas and the dispatcher share."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.bus.eventing.buses import BusRecord
from headrace.bus.eventing.feeds.models import FeedRecord, FeedStatus
from headrace.bus.eventing.hooks import HookRecord
from headrace.bus.eventing.joins import JoinRecord
from headrace.bus.eventing.leases import LeaseRecord
from headrace.bus.eventing.replays.models import ReplayRecord
from headrace.bus.eventing.schedules.models import ScheduleProgress, ScheduleRecord
from headrace.bus.eventing.starts import CatchUpRecord
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.presence import Presence
from headrace.bus.store.actions import Actions
from headrace.bus.store.models import (
    EndpointNameRecord,
    EndpointRecord,
    FunctionCodeRecord,
    FunctionRecord,
    LaneRecord,
    ObjectRecord,
    ObjectUseRecord,
    PoolRecord,
    PresenceRecord,
    RemovalRecord,
    RevocationRecord,
    SessionRecord,
    TokenRecord,
    UserRecord,
)
from headrace.bus.store.recent import RecentRecords
from headrace.bus.store.records import Records

PRESENCE_TTL_S = 15.0
PRESENCE_QUIET_TTL_S = 270.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """One `Records` per kind of record. Functions, their code, endpoints, presence, subscriptions, schedules
    and their progress, and hooks are keyed by the
    hex of a UUID, users by the token of their name, tokens and sessions by their id, revocations by the public key,
    buses by their name, objects and their uses as `headrace.bus.store.objects` says, lanes by
    `headrace.bus.names.lane_key`, pools by `headrace.bus.names.pool_key`, leases as `headrace.bus.eventing.leases`
    says."""

    functions: RecentRecords[FunctionRecord]
    function_code: Records[FunctionCodeRecord]
    endpoints: RecentRecords[EndpointRecord]
    endpoint_names: Records[EndpointNameRecord]
    presence: Presence
    users: Records[UserRecord]
    tokens: Records[TokenRecord]
    sessions: Records[SessionRecord]
    revocations: Records[RevocationRecord]
    removals: Records[RemovalRecord]
    subscriptions: Records[SubscriptionRecord]
    catch_ups: Records[CatchUpRecord]
    joins: Records[JoinRecord]
    schedules: Records[ScheduleRecord]
    schedule_progress: Records[ScheduleProgress]
    hooks: Records[HookRecord]
    buses: RecentRecords[BusRecord]
    feeds: Records[FeedRecord]
    feed_status: Records[FeedStatus]
    lanes: Records[LaneRecord]
    pools: Records[PoolRecord]
    actions: Actions
    objects: Records[ObjectRecord]
    object_uses: Records[ObjectUseRecord]
    leases: Records[LeaseRecord]
    replays: Records[ReplayRecord]

    @classmethod
    def on(cls, connection: Connection) -> Tables:
        """The tables behind this connection; nothing is read or created yet."""
        return cls(
            functions=RecentRecords(connection, "functions", FunctionRecord),
            function_code=Records(connection, "function_code", FunctionCodeRecord),
            endpoints=RecentRecords(connection, "endpoints", EndpointRecord),
            endpoint_names=Records(connection, "endpoint_names", EndpointNameRecord),
            presence=Presence(Records(connection, "presence", PresenceRecord)),
            users=Records(connection, "users", UserRecord),
            tokens=Records(connection, "tokens", TokenRecord),
            sessions=Records(connection, "sessions", SessionRecord),
            revocations=Records(connection, "revocations", RevocationRecord),
            removals=Records(connection, "removals", RemovalRecord),
            subscriptions=Records(connection, "subscriptions", SubscriptionRecord),
            catch_ups=Records(connection, "catch_ups", CatchUpRecord),
            joins=Records(connection, "joins", JoinRecord),
            schedules=Records(connection, "schedules", ScheduleRecord),
            schedule_progress=Records(connection, "schedule_progress", ScheduleProgress),
            hooks=Records(connection, "hooks", HookRecord),
            buses=RecentRecords(connection, "buses", BusRecord),
            feeds=Records(connection, "feeds", FeedRecord),
            feed_status=Records(connection, "feed_status", FeedStatus),
            lanes=Records(connection, "lanes", LaneRecord),
            pools=Records(connection, "pools", PoolRecord),
            actions=Actions(connection),
            objects=Records(connection, "objects", ObjectRecord),
            object_uses=Records(connection, "object_uses", ObjectUseRecord),
            leases=Records(connection, "leases", LeaseRecord),
            replays=Records(connection, "replays", ReplayRecord),
        )

    async def ensure(self, *, replicas: int = 1) -> None:
        """Create the buckets that are missing."""
        await self.functions.ensure(replicas=replicas)
        await self.function_code.ensure(replicas=replicas)
        await self.endpoints.ensure(replicas=replicas)
        await self.endpoint_names.ensure(replicas=replicas)
        await self.presence.ensure(replicas=replicas)
        await self.users.ensure(replicas=replicas)
        await self.tokens.ensure(replicas=replicas)
        await self.sessions.ensure(replicas=replicas)
        await self.revocations.ensure(replicas=replicas)
        await self.removals.ensure(replicas=replicas)
        await self.subscriptions.ensure(replicas=replicas)
        await self.catch_ups.ensure(replicas=replicas)
        await self.joins.ensure(replicas=replicas)
        await self.schedules.ensure(replicas=replicas)
        await self.schedule_progress.ensure(replicas=replicas)
        await self.hooks.ensure(replicas=replicas)
        await self.buses.ensure(replicas=replicas)
        await self.feeds.ensure(replicas=replicas)
        await self.feed_status.ensure(replicas=replicas, is_fleeting=True)
        await self.lanes.ensure(replicas=replicas)
        await self.pools.ensure(replicas=replicas)
        await self.actions.ensure(replicas=replicas)
        await self.objects.ensure(replicas=replicas)
        await self.object_uses.ensure(replicas=replicas)
        # After a power cut there is nobody who holds one.
        await self.leases.ensure(replicas=replicas, is_fleeting=True)
        await self.replays.ensure(replicas=replicas)

    async def listen(self) -> None:
        """Hear of changes of what is then believed for a moment. Raises `BusUnavailable`."""
        await self.functions.listen()
        await self.endpoints.listen()
        await self.buses.listen()
