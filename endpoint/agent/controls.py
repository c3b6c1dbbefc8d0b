"""What the service says of bundles: cancellations, believed only with its signature."""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import UUID

from headrace.bus.errors import DecodeError, SignatureInvalid
from headrace.bus.names import Address
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.control import Control, decode_control
from headrace.endpoint.grant import PoolGrant

logger = logging.getLogger(__name__)

_MOST_CONTROLS = 10_000


class Controls:
    """Cancellations: those that are stored, and those that came before their bundles."""

    def __init__(self, connection: Connection, grant: Callable[[], PoolGrant]) -> None:
        self._connection = connection
        self._grant = grant
        self._early: dict[UUID, Control] = {}

    def decoded(self, data: bytes, subject: str) -> Control | None:
        """A cancellation; None when it is not the service's."""
        try:
            return decode_control(data, subject=subject, pool_secret=self._grant().pool_secrets)
        except (SignatureInvalid, DecodeError) as error:
            logger.warning("Dropped a cancellation that is not the service's: %s", error)
            return None

    async def stored(self, address: Address) -> Control | None:
        """What is stored of a bundle. Raises `BusError`."""
        message = await self._connection.read_last("CONTROL", address.control_subject)
        return None if message is None else self.decoded(message.data, address.control_subject)

    def remember(self, bundle: UUID, control: Control) -> bool:
        """Keep what came before its bundle; False when that is too much, and all of it must be read from the store."""
        self._early[bundle] = control
        if len(self._early) <= _MOST_CONTROLS:
            return True
        self._early.clear()
        return False

    def early(self, bundle: UUID) -> Control | None:
        """What came before this bundle."""
        return self._early.get(bundle)
