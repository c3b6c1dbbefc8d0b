"""The bundles in a pool's hands."""

from __future__ import annotations

from uuid import UUID

from headrace.endpoint.agent.held import Held

_MOST_BYTES = 128 * 1024 * 1024


class InHand:
    """Bundles by their ids, and how many bytes they are."""

    def __init__(self) -> None:
        self.bundles: dict[UUID, Held] = {}
        """To be looked at; changed only here."""
        self.bytes = 0
        self.bytes_taken = 0
        """How much has been taken since the start."""

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more bytes."""
        return self.bytes >= _MOST_BYTES

    def has(self, held: Held) -> bool:
        """Whether it is here: this taking of the bundle, not a later one."""
        return self.bundles.get(held.address.bundle) is held

    def take(self, held: Held) -> None:
        """From here on it is ours."""
        self.bundles[held.address.bundle] = held
        self.bytes += held.size
        self.bytes_taken += held.size

    def let_go(self, held: Held) -> bool:
        """It is ours no more; whether it was."""
        if not self.has(held):
            return False
        del self.bundles[held.address.bundle]
        self.bytes -= held.size
        return True
