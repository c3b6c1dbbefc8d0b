"""Lists of actions are put in order: what a crash left, and what an earlier release did not know of."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from headrace.action_provider.state import Service
from headrace.bus.errors import BusError

logger = logging.getLogger(__name__)

_AGAIN_S = 5.0
_SHARE = 0.05
"""How much of the time is spent on it where nothing seems to be amiss."""


async def keep_lists(service: Service) -> None:
    """Mend the lists at the start, after each loss of the bus, and now and then, until cancelled."""
    lost = asyncio.Event()
    lost.set()
    service.connection.on_connected.append(lost.set)
    try:
        while True:
            share = 1.0 if lost.is_set() else _SHARE
            lost.clear()
            wait_s = service.settings.lists_mend_s if await _mended(service, share) else _AGAIN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await lost.wait()
    finally:
        service.connection.on_connected.remove(lost.set)


async def _mended(service: Service, share: float) -> bool:
    try:
        count = await service.tables.actions.mend_lists(share=share)
    except BusError as error:
        logger.info("The lists of actions are put in order later: %s", error, extra={"action": "lists_not_mended"})
        return False
    if count:
        logger.info("Put %d entries of lists of actions in order.", count, extra={"action": "lists_mended"})
    return True
