"""Refuses new messages while the disk is nearly full.

A NATS server whose write fails for lack of room answers nobody: whoever publishes waits in vain, and its stream stays
broken until the server is started again. So the disk must not fill: below a floor of free room the account of JetStream
is stated anew with a limit that is exceeded already, and every publish is refused at once with a reason. Above the
floor it is stated as before.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

from headrace.bus.errors import BusError
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer

logger = logging.getLogger(__name__)

LARGEST_FLOOR_BYTES: Final = 256 * 1024 * 1024

_LOOK_S = 0.5


class DiskGuard:
    """Watches the room for one server's store. `run` until cancelled."""

    def __init__(self, operator: Operator, server: NatsServer, directory: Path) -> None:
        self._operator = operator
        self._server = server
        self._directory = directory
        self._refusing = False
        self._told_pid = 0

    async def run(self) -> None:
        """Look twice a second, for ever."""
        while True:
            try:
                await self._look()
            except (BusError, OSError) as error:
                logger.debug("The room for the NATS server was not looked after (%s); trying again.", error)
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        usage = shutil.disk_usage(self._directory)
        floor = min(LARGEST_FLOOR_BYTES, usage.total // 20)
        # Opened again only well above the floor, so that it does not flap.
        refuse = usage.free < (floor + floor // 4 if self._refusing else floor)
        # A server that was started again knows nothing of what its predecessor was told.
        is_told = self._told_pid == self._server.pid if refuse else not self._refusing
        if refuse == self._refusing and is_told:
            return
        await self._tell(room=not refuse)
        if refuse != self._refusing:
            self._log(refuse, usage.free, floor)
        self._refusing, self._told_pid = refuse, self._server.pid

    async def _tell(self, *, room: bool) -> None:
        from headrace.bus.nats.connection import Connection

        pid = self._server.pid
        async with Connection([self._server.url], self._operator.system_user(), name="headrace disk guard") as system:
            await system.request(*self._operator.storing(room=room))
        if pid != self._server.pid:
            raise BusError("the server was started again meanwhile")

    def _log(self, refuse: bool, free: int, floor: int) -> None:
        if refuse:
            logger.error(
                "The disk of %s has only %d MB left: new tasks, results and events are refused until there are %d MB.",
                self._directory,
                free // 1_000_000,
                (floor + floor // 4) // 1_000_000,
                extra={"action": "disk_nearly_full", "path": str(self._directory)},
            )
        else:
            logger.warning(
                "The disk of %s has room again: everything is stored as before.",
                self._directory,
                extra={"action": "disk_has_room", "path": str(self._directory)},
            )
