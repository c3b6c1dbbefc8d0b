"""What led to an event, as its attributes say it, and the end of chains that come back to where they were.

An event that Headrace publishes because of another one has three attributes, of which the first two are those of
CloudEvents' correlation extension:

    causationid     the id of the event that led to it
    correlationid   what all events of one story have in common: the one of that event, or else its id
    headracechain   the subscriptions that led to it, the latest one last: 32 hexadecimal digits each, with dots between

A function that publishes events of its own keeps its place in the chain by handing the latter two on.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from headrace.bus.errors import LoopDetected
from headrace.bus.eventing.events import CloudEvent

CAUSATION: Final = "causationid"
CORRELATION: Final = "correlationid"
CHAIN: Final = "headracechain"
MOST_DEPTH: Final = 16
"""So many subscriptions may lead to an event; the next one is not delivered."""

_LINK = re.compile(r"[0-9a-f]{32}\Z")


def chain_of(event: CloudEvent) -> tuple[str, ...]:
    """The subscriptions that led to an event, the latest one last. What is not an id in there counts for nothing."""
    said = event.attributes.get(CHAIN, "")
    if not isinstance(said, str):
        return ()
    return tuple(link for link in said.split(".") if _LINK.match(link))


def check_chain(event: CloudEvent, subscription: UUID) -> None:
    """Raises `LoopDetected` where delivering the event to this subscription would go round in a circle, or too deep."""
    chain = chain_of(event)
    if subscription.hex in chain:
        way = " → ".join(str(UUID(each)) for each in (*chain[chain.index(subscription.hex) :], subscription.hex))
        raise LoopDetected(f"this subscription has led to the event itself: {way}")
    if len(chain) >= MOST_DEPTH:
        raise LoopDetected(
            f"{len(chain)} subscriptions have led to this event, one after another; no more are followed"
        )


def consequence(cause: CloudEvent | None, cause_id: str, subscription: UUID) -> dict[str, str]:
    """The attributes of an event to which the cause has led by way of a subscription; `cause` is None where it was
    forgotten."""
    chain = (*(chain_of(cause) if cause else ()), subscription.hex)[-MOST_DEPTH:]
    correlation = cause.attributes.get(CORRELATION) if cause else None
    return {
        CAUSATION: cause_id,
        CORRELATION: correlation if isinstance(correlation, str) and correlation else cause_id,
        CHAIN: ".".join(chain),
    }
