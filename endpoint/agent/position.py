"""Where the stream of tasks ends: what comes after that was in nobody's hands before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from headrace.endpoint.agent.side_tasks import SideTasks
from headrace.endpoint.grant import PoolGrant, PoolService

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 1.0


class Position:
    """Asks the service for it. `on_grant` gets each grant that comes with the answer."""

    def __init__(self, service: PoolService, tasks: SideTasks, on_grant: Callable[[PoolGrant], None]) -> None:
        self._service = service
        self._tasks = tasks
        self._on_grant = on_grant
        self._questions = 0
        self.unsure_up_to: float = float("inf")
        """Up to this sequence bundles may have been in other hands, and cancellations may have been missed."""
        self.is_lost = True
        """Whether the service has not answered since something may have been missed: also between the grant that the
        pool began with and the moment at which it listens."""

    def lose(self) -> None:
        """Something may have been missed: be unsure of everything until the service has answered."""
        self.unsure_up_to = float("inf")
        self.is_lost = True
        self.ask()

    def ask(self) -> None:
        """Learn it anew, on the side."""
        self._tasks.spawn(self.learn(), "position")

    async def learn(self) -> None:
        """Ask until there is an answer."""
        self._questions += 1
        mine, retry_s = self._questions, _FIRST_RETRY_S
        # An answer to an earlier question would be too low: the connection was lost once more since it was asked.
        while mine == self._questions:
            try:
                grant = await asyncio.to_thread(self._service.grant_pool)
                if mine == self._questions:
                    self.unsure_up_to = grant.tasks_sequence
                    self.is_lost = False
                self._on_grant(grant)
                return
            except Exception as error:
                logger.info("The service does not answer (%s); every bundle's past is read until it does.", error)
                # A service that was ended with the bus comes back a moment after it.
                await asyncio.sleep(retry_s)
                retry_s = min(_LONGEST_RETRY_S, 2 * retry_s)
