"""Named buses, as records: who may publish and subscribe, how much is kept, and what events of a type must look like.

The bus `default` has no record: it is everybody's, and is kept as the installation says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from headrace.bus.names import DEFAULT_BUS, bus_events, bus_news, event_stream
from headrace.bus.store.models import PUBLIC
from headrace.bus.store.streams import DAY_S, GIB, Stream, event_options
from headrace.bus.urns import canonical_set

MOST_BUSES: Final = 1000
"""Of an installation. Each costs the NATS server about 70 KB while nobody subscribes, 120 KB when somebody does."""
MOST_BUSES_OF_ONE: Final = 100
"""Of one owner."""
MOST_GUESTS: Final = 1000
"""Publishers of one bus, and as many subscribers."""

Policy = Literal["reject", "mark"]
"""What becomes of an event that does not fit: it is refused, or stored with `MARK`."""

MARK: Final = "schemaproblem"
"""The extension attribute that says in which way an event does not fit the schema of its type."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long, and how much, a bus keeps: whichever ends first. The oldest events go."""

    max_age_s: float = 7 * DAY_S
    max_bytes: int = GIB // 4


class EventSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What the data of events of a type must be."""

    schema: dict[str, Any]
    policy: Policy = "reject"


class BusRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bus of somebody's. `publishers` and `subscribers` are URNs of principals and groups, or `PUBLIC`."""

    name: str
    owner: str
    created_at: float
    description: str = ""
    publishers: tuple[str, ...] = ()
    subscribers: tuple[str, ...] = ()
    retention: Retention = Retention()
    schemas: dict[str, EventSchema] = {}
    """By the type of the events."""
    first_sequence: int = 1
    """Where its sequences begin: behind those of a bus that had the name before."""
    removed_at: float | None = None
    """Since when it is none any more. The record stays, so that nobody else gets the name, and with it what others
    still send there."""

    @property
    def is_there(self) -> bool:
        """Whether it has not been removed."""
        return self.removed_at is None

    def lets_publish(self, urns: Iterable[str]) -> bool:
        """Whether somebody with these URNs (a principal, its other names and its groups) may publish."""
        return _is_among(urns, (self.owner, *self.publishers))

    def lets_subscribe(self, urns: Iterable[str]) -> bool:
        """Whether somebody with these URNs may subscribe, and so read what is published."""
        return _is_among(urns, (self.owner, *self.subscribers))

    def stream(self) -> Stream:
        """The stream of its events."""
        return Stream(
            event_stream(self.name),
            (bus_events(self.name),),
            {
                **event_options(age_s=self.retention.max_age_s, most_bytes=self.retention.max_bytes),
                "republish": {"src": bus_events(self.name), "dest": bus_news(self.name), "headers_only": True},
            },
            at_creation={"first_seq": self.first_sequence} if self.first_sequence > 1 else {},
        )


def everybodys() -> BusRecord:
    """The bus `default` as if it had a record. Its retention is the installation's."""
    return BusRecord(name=DEFAULT_BUS, owner="", created_at=0.0, publishers=(PUBLIC,), subscribers=(PUBLIC,))


def _is_among(urns: Iterable[str], allowed: Iterable[str]) -> bool:
    names = canonical_set(allowed)
    return PUBLIC in names or not canonical_set(urns).isdisjoint(names)
