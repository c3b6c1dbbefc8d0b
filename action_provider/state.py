"""What handlers work with: opened by the lifespan, the same for every request of one service."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TypedDict

from headrace.action_provider.auth.authenticators import Authenticators
from headrace.action_provider.auth.live_tokens import LiveTokens
from headrace.action_provider.event_stream import Places
from headrace.action_provider.metrics import Metrics
from headrace.action_provider.settings import ServiceSettings
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.installation.credentials import Minter
from headrace.bus.installation.service_keys import Revocation
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.gathering import Gatherings
from headrace.bus.queues.lanes import Lanes
from headrace.bus.queues.pools import Pools
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.backlog import Backlog


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of a running service."""

    settings: ServiceSettings
    connection: Connection
    gatherings: Gatherings
    """Where single messages of many requests are stored together."""
    tables: Tables
    keys: KeyRing
    lanes: Lanes
    pools: Pools
    backlog: Backlog
    minter: Minter
    revocation: Revocation
    authenticators: Authenticators
    live_tokens: LiveTokens
    metrics: Metrics
    followers: Places
    """One for each answer that may be under way without an end in sight."""

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the service begins to stop: whoever waits for something answers with what there is."""

    @property
    def publishing(self) -> Publishing:
        """Publishes to buses."""
        return Publishing(self.connection, self.tables.buses, self.tables.users, self.gatherings)


class State(TypedDict):
    """The lifespan's state, found as `request.state`."""

    service: Service
