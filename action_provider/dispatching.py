"""The dispatcher as a process of its own: it answers nobody."""

from __future__ import annotations

import asyncio
import dataclasses
import logging

from headrace.action_provider.app import open_service
from headrace.action_provider.settings import ServiceSettings

logger = logging.getLogger(__name__)


async def dispatch_async(settings: ServiceSettings) -> None:
    """Match events and watch deliveries until cancelled.

    Raises `ServiceUnusable`, `KeysUnusable` or `BusError` when that cannot start.
    """
    async with open_service(dataclasses.replace(settings, dispatcher=True)):
        logger.info("The dispatcher works.", extra={"action": "dispatcher_started"})
        await asyncio.get_running_loop().create_future()
