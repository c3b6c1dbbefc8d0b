"""Subscriptions: what a delivery is made from, as records and compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.eventing.templates import InputTemplate, compile_input
from headrace.bus.filters import Filter, compile_filter
from headrace.bus.names import event_stream
from headrace.bus.nats.connection import Connection


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a delivery is tried, and how long it waits in between: each time `factor` times as long."""

    max_attempts: int = 3
    first_delay_s: float = 1.0
    factor: float = 2.0
    max_delay_s: float = 300.0

    def delay_s(self, failed_attempts: int) -> float:
        """How long to wait after so many failures (at least 1)."""
        try:
            delay_s = self.first_delay_s * self.factor ** (failed_attempts - 1)
        except OverflowError:
            delay_s = self.max_delay_s
        return min(delay_s, self.max_delay_s)


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


@dataclass(frozen=True, slots=True)
class CompiledSubscription:
    """A subscription that is ready to be used."""

    record: SubscriptionRecord
    filter: Filter
    input: InputTemplate

    @classmethod
    def of(cls, record: SubscriptionRecord) -> CompiledSubscription:
        """Compile a record. Raises `FilterInvalid`."""
        return cls(record, compile_filter(record.filter), compile_input(record.input))


async def last_sequence(connection: Connection, *, bus: str = DEFAULT_BUS) -> int:
    """The sequence of the newest event of a bus. Raises `BusUnavailable`, and `StreamMissing` where there is no bus."""
    answer = await connection.api(f"STREAM.INFO.{event_stream(bus)}")
    return int(answer["state"]["last_seq"])
