"""Subscriptions: what a delivery is made from, as records and compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from headrace.bus.eventing.events import DEFAULT_BUS, CloudEvent
from headrace.bus.eventing.flow.policy import Flow, Pauses
from headrace.bus.eventing.joins import COMPLETE_TYPE, CompiledJoin, Join, compile_join
from headrace.bus.eventing.lifetimes import StartPosition
from headrace.bus.eventing.places import EndpointChoice, OfflinePolicy, Places, compile_places
from headrace.bus.eventing.retries import RetryPolicy
from headrace.bus.eventing.sinks.models import Sink
from headrace.bus.eventing.templates import InputTemplate, compile_input
from headrace.bus.filters import Filter, compile_filter
from headrace.bus.names import event_stream
from headrace.bus.nats.connection import Connection


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is published when a delivery has ended. Empty is as by default: a source that names the
    subscription, and the subscription's bus."""

    type: str
    source: str = ""
    bus: str = ""


class Announce(msgspec.Struct, frozen=True, kw_only=True):
    """What is published when a delivery has succeeded, and when it was given up; None is nothing."""

    success: Announcement | None = None
    failure: Announcement | None = None


class SubscriptionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Events of `bus` that pass `filter` run the function at the endpoint, in the name of `owner`.

    `filter` and `input` are as the owner wrote them (see `headrace.bus.filters` and `headrace.bus.eventing.templates`).
    """

    subscription_id: UUID
    name: str
    owner: str
    filter: Any
    function_id: UUID
    endpoint_id: UUID
    created_at: float
    bus: str = DEFAULT_BUS
    input: Any = None
    retry: RetryPolicy = RetryPolicy()
    after_sequence: int = 0
    """The last event of the bus when the subscription was made: only later ones are delivered."""
    linked: tuple[str, ...] = ()
    """Other identities of its owner: what belongs to, or is shared with, them is the owner's to use."""
    endpoint: EndpointChoice | None = None
    """How an event chooses its endpoint; `endpoint_id` is `NO_ENDPOINT` then."""
    offline: OfflinePolicy = OfflinePolicy()
    former_endpoints: tuple[UUID, ...] = ()
    """Where deliveries went before it was changed: some may still be there."""
    target: Sink | None = None
    """Where its events go in place of a function; the function is then `NO_FUNCTION`, and the endpoint `SINKS`."""
    start: StartPosition | None = None
    """Where it starts, when that is before `after_sequence`: what lies between is delivered as well."""
    announce: Announce = Announce()
    join: Join | None = None
    """Which events come together before anything is delivered: what is delivered is the event that tells of it."""
    expires_at: float | None = None
    """What is stored from this moment on (unix seconds, the server's clock) is not delivered."""

    flow: Flow | None = None
    """Limits, order and batches; None: each event is delivered at once, and nothing is kept of it."""
    pauses: Pauses = Pauses()

    @property
    def joined_source(self) -> str:
        """The source of the events in which others have come together for this subscription."""
        return f"/headrace/subscriptions/{self.subscription_id}/joined"

    def has_ended(self, at: float) -> bool:
        """Whether it has expired by this moment."""
        return self.expires_at is not None and at >= self.expires_at

    @property
    def queued(self) -> bool:
        """Whether a delivery that begins now is queued, for whoever holds the subscription's lease."""
        return self.flow is not None or self.pauses.now is not None

    @property
    def kept(self) -> bool:
        """Whether somebody must hold its lease: something may be queued."""
        return self.queued or self.pauses.resumed > 0


@dataclass(frozen=True, slots=True)
class CompiledSubscription:
    """A subscription that is ready to be used."""

    record: SubscriptionRecord
    filter: Filter
    input: InputTemplate
    places: Places
    join: CompiledJoin | None

    def gets(self, event: CloudEvent, stored_at: float) -> bool:
        """Whether an event that was stored then is one for it."""
        return (self.has_joined(event) or not self.record.has_ended(stored_at)) and self.filter.matches(event)

    def wants(self, event: CloudEvent, sequence: int, stored_at: float) -> bool:
        """Whether an event that was stored there and then, and passes the filter, comes while it lasts."""
        if self.record.after_sequence >= sequence:
            return False
        return not self.record.has_ended(stored_at) or self.has_joined(event)

    def has_joined(self, event: CloudEvent) -> bool:
        """Whether this is an event in which others have come together for it; then their time counts, not its own."""
        return self.join is not None and event.source == self.record.joined_source

    def is_part(self, event: CloudEvent) -> bool:
        """Whether an event that passes the filter waits for others, and is not delivered itself."""
        return self.join is not None and not self.has_joined(event)

    @classmethod
    def of(cls, record: SubscriptionRecord) -> CompiledSubscription:
        """Compile a record. Raises `FilterInvalid`."""
        return cls(
            record,
            compile_filter(whole_filter(record)),
            compile_input(record.input),
            compile_places(record.endpoint_id, record.endpoint, record.offline.next_endpoints),
            compile_join(record.join),
        )


def whole_filter(record: SubscriptionRecord) -> Any:
    """Its filter, and with a join that of the events in which others have come together for it."""
    if record.join is None:
        return record.filter
    return {"any": [record.filter, {"exact": {"source": record.joined_source, "type": COMPLETE_TYPE}}]}


async def last_sequence(connection: Connection, *, bus: str = DEFAULT_BUS) -> int:
    """The sequence of the newest event of a bus. Raises `BusUnavailable`, and `StreamMissing` where there is no bus."""
    answer = await connection.api(f"STREAM.INFO.{event_stream(bus)}")
    return int(answer["state"]["last_seq"])
