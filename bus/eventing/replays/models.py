"""Replays as records. Fields are only appended, with defaults; times are unix seconds."""

from __future__ import annotations

from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.events import DEFAULT_BUS, CloudEvent
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.store.streams import DAY_S

MARK: Final = "replayid"
"""The extension attribute that an event has while it is replayed: in what templates and functions see of it."""

KEPT_S: Final = 90 * DAY_S
"""So long the record of a replay is kept after its end: as long as the dead letters that may have come of it."""

DEFAULT_PER_SECOND: Final = 50.0
MOST_GAPS: Final = 100

ReplayState = Literal["running", "paused", "cancelled", "finished", "failed"]
ENDED: Final = frozenset(("cancelled", "finished", "failed"))
RESUMABLE: Final = frozenset(("paused", "failed"))

EVERYTHING: Final = {"sql": "true"}
"""The filter of its own subscription."""


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Events of the range that the bus holds no more: the sequences from `first` to `last`."""

    first: int
    last: int
    reason: Literal["expired", "deleted"]
    """Whether they were the oldest, whose time was over, or were removed from among others."""


class ReplayRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A replay: the events of `bus` behind `after`, up to `last`, in their order. To a subscription, or `own`.

    Its progress is in the same record, written by compare-and-set, so that what was counted is where it stands.
    """

    replay_id: UUID
    name: str
    owner: str
    created_at: float
    after: int
    last: int
    bus: str = DEFAULT_BUS
    subscription_id: UUID | None = None
    own: SubscriptionRecord | None = None
    """What runs, where that is no subscription: in the form of one, which no event reaches but by this replay."""
    filter: Any = None
    """Only events that pass it, beside the subscription's own filter."""
    per_second: float = DEFAULT_PER_SECOND
    forgotten_until: float = 0.0
    """Where the range begins at a time of which the bus holds nothing any more: when its oldest event was stored."""
    state: ReplayState = "running"
    problem: str = ""
    """Why it failed."""
    position: int = 0
    """The last event that was looked at; `after` at the beginning."""
    looked_at: int = 0
    sent: int = 0
    """Deliveries that were made."""
    unreadable: int = 0
    missing: int = 0
    gaps: tuple[Gap, ...] = ()
    """What is missing; only the first hundred of them."""
    ended_at: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether nothing more is sent, unless it failed and is resumed."""
        return self.state in ENDED

    @property
    def ttl_s(self) -> float | None:
        """How long its record is kept from now on; None: until it ends."""
        return KEPT_S if self.ended else None

    @property
    def delivers_to(self) -> UUID:
        """The subscription of its deliveries: where it has a target of its own, itself."""
        return self.subscription_id or self.replay_id

    def delivery(self, sequence: int, event: CloudEvent) -> Delivery:
        """The delivery of one of its events."""
        return Delivery(self.delivers_to, self.bus, sequence, event.source, event.id, replay=self.replay_id)

    def without(self, first: int, last: int, reason: Literal["expired", "deleted"]) -> ReplayRecord:
        """With these events counted as missing."""
        gaps = self.gaps
        if gaps and gaps[-1].last == first - 1 and gaps[-1].reason == reason:
            gaps = (*gaps[:-1], Gap(first=gaps[-1].first, last=last, reason=reason))
        elif len(gaps) < MOST_GAPS:
            gaps = (*gaps, Gap(first=first, last=last, reason=reason))
        missing = self.missing + last - first + 1
        return msgspec.structs.replace(self, gaps=gaps, missing=missing, position=last)


def marked(event: CloudEvent, replay: UUID | None) -> CloudEvent:
    """The event as a replay shows it; as it is where it is no replay."""
    if replay is None:
        return event
    mark = {MARK: str(replay)}
    return CloudEvent({**event.document, **mark}, {**event.attributes, **mark})
