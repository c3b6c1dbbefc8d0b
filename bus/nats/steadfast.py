"""Work that goes on whenever there is a bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from headrace.bus.errors import BusUnavailable
from headrace.bus.nats.connection import Connection

LOST_BUS_WAIT_S: Final = 0.5
"""How long to wait before something that failed for want of a bus is tried again."""


async def run_steadfastly(
    connection: Connection, work: Callable[[], Awaitable[object]], *, who: str, logger: logging.Logger
) -> None:
    """Do the work, again from its beginning whenever the bus was lost and is back. Until cancelled.

    `who` does it, for the log. What else goes wrong in it is raised.
    """
    while True:
        try:
            await connection.wait_connected(None)
            await work()
        except* BusUnavailable as lost:
            logger.warning(
                "The %s lost the bus (%s); it goes on when the bus is back.",
                who,
                lost.exceptions[0],
                extra={"action": f"{who}_waits"},
            )
        await asyncio.sleep(LOST_BUS_WAIT_S)
