"""The clock of this machine against that of the NATS server.

The service says when a credential ends, and the NATS server decides whether it has: with clocks that differ by minutes
nobody could connect, or credentials would outlive their time.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final

from headrace.action_provider.errors import ServiceUnusable
from headrace.bus.nats.connection import Connection

MOST_S: Final = 120.0
"""How far the clocks may be apart. Sessions live minutes and are renewed at half of that."""


async def check_clock(connection: Connection, url: str) -> None:
    """Raises `ServiceUnusable` when the clocks are too far apart, and `BusError`."""
    said = (await connection.api("STREAM.INFO.TASKS")).get("ts")
    if not said:
        return
    ahead_s = time.time() - datetime.fromisoformat(said).timestamp()
    if abs(ahead_s) > MOST_S:
        relation = "ahead of" if ahead_s > 0 else "behind"
        raise ServiceUnusable(
            f"the clock of this machine is {abs(ahead_s):.0f} s {relation} that of the NATS server at {url}, so that"
            " credentials would end at the wrong time; set the clock right (NTP) on the one that is wrong"
        )
