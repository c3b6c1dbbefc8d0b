"""What a filter would have matched: the events that a bus still holds, gone through again, without any effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from headrace.bus.eventing.arrivals import Arrived, arrived_after
from headrace.bus.filters import Filter
from headrace.bus.nats.connection import Connection

MOST_SCANNED: Final = 20_000
"""Events that one call goes through; the next call goes on from there."""


@dataclass(slots=True)
class Backtest:
    """What was found. `position` is the last event that was looked at; `more`: events after it were not."""

    position: int
    scanned: int = 0
    matched: int = 0
    samples: list[Arrived] = field(default_factory=list)
    more: bool = False


async def backtest(
    connection: Connection, bus: str, wanted: Filter, *, after: int, samples: int, most: int = MOST_SCANNED
) -> Backtest:
    """Go through the events behind a sequence; the first `samples` that match are kept. Raises `BusUnavailable`."""
    found = Backtest(after)
    while True:
        arrived, found.more = await arrived_after(connection, bus, found.position)
        for each in arrived:
            found.position = each.sequence
            found.scanned += 1
            if each.event is not None and wanted.matches(each.event):
                found.matched += 1
                if len(found.samples) < samples:
                    found.samples.append(each)
        if not found.more or not arrived or found.scanned >= most:
            return found
