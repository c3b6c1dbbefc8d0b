"""Ending what a tick has started, because the next one takes its place."""

from __future__ import annotations

from collections import defaultdict
from typing import Final
from uuid import UUID

from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.schedules.models import TickRun
from headrace.bus.eventing.schedules.timing import instant
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.keys import KeyRing
from headrace.bus.names import Address
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.cancelling import Cancelling
from headrace.bus.tasks.submission import DELIVERIES_GROUP

MOST_ATTEMPTS: Final = 20
"""What the schema of retry policies allows."""

_REASONS: Final = (
    "the next tick of its schedule took its place before it started",
    "the next tick of its schedule took its place, and its endpoint is lost",
)
