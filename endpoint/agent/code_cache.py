"""Code of functions: fetched once from the service, then kept."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

from headrace.bus.clock import elapsed_s
from headrace.bus.errors import FunctionUnusable
from headrace.bus.functions.code import FunctionCode
from headrace.bus.tasks.bundles import FunctionUse
from headrace.endpoint.errors import RegistrationRefused, ServiceAway
from headrace.endpoint.grant import PoolGrant, PoolService

logger = logging.getLogger(__name__)

BELIEVED_S = 60.0

_MOST_FUNCTIONS = 5_000
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
_RENEWED_WITHIN_S = 20.0
_UNAUTHENTICATED = 401


class CodeCache:
    """Functions never change, so what is here is right; the ones used longest ago make room. But they are deleted: what
    is here is asked for again after a minute, and is good as long as the service is away."""

    def __init__(self, service: PoolService) -> None:
        self._service = service
        self._codes: OrderedDict[UUID, FunctionCode] = OrderedDict()
        self._asked_at: dict[UUID, float] = {}
        self._fetches: dict[UUID, asyncio.Lock] = {}

    def known(self, function: UUID) -> FunctionCode | None:
        """The code if it is here, and was asked for not long ago."""
        code = self._codes.get(function)
        if code is None or elapsed_s() - self._asked_at.setdefault(function, elapsed_s()) > BELIEVED_S:
            return None
        self._codes.move_to_end(function)
        return code

    async def get(self, grant: Callable[[], PoolGrant], use: FunctionUse, principal: str) -> FunctionCode:
        """The code, fetched if need be with the pool's grant of that moment. Raises `FunctionUnusable`.

        While the service is away this waits, and for a while also when the grant is not, or no longer, good: a machine
        that slept has its renewal under way.
        """
        async with self._fetches.setdefault(use.id, asyncio.Lock()):
            code = self.known(use.id)
            if code is None:
                code = await self._fetch(grant, use, principal)
                self._keep(use.id, code)
            return code

    def _keep(self, function: UUID, code: FunctionCode) -> None:
        self._codes[function] = code
        self._codes.move_to_end(function)
        self._asked_at[function] = elapsed_s()
        if len(self._codes) > _MOST_FUNCTIONS:
            oldest, _ = self._codes.popitem(last=False)
            self._asked_at.pop(oldest, None)
            self._fetches.pop(oldest, None)

    def _drop(self, function: UUID) -> None:
        self._codes.pop(function, None)
        self._asked_at.pop(function, None)

    async def _fetch(self, grant: Callable[[], PoolGrant], use: FunctionUse, principal: str) -> FunctionCode:
        wait_s, until = _FIRST_WAIT_S, elapsed_s() + _RENEWED_WITHIN_S
        while True:
            try:
                return await asyncio.to_thread(self._service.fetch_code, grant(), use, principal)
            except RegistrationRefused as error:
                if error.status != _UNAUTHENTICATED:
                    self._drop(use.id)
                if error.status != _UNAUTHENTICATED or elapsed_s() > until:
                    raise FunctionUnusable(f"the code of function {use.id} cannot be had: {error}") from error
                if (code := self._codes.get(use.id)) is not None:
                    return code
                logger.info("Waiting for a good grant to get the code of function %s: %s", use.id, error)
            except ServiceAway as error:
                if (code := self._codes.get(use.id)) is not None:
                    return code
                logger.warning("Waiting for the code of function %s: %s", use.id, error)
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, wait_s * 2)
