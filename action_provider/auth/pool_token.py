"""The token with which a pool asks for its own session, and for nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from headrace.action_provider.errors import Unauthenticated
from headrace.bus.keys import KeyRing

_MARK: Final = "hrp_"
_PURPOSE: Final = "pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolToken:
    """`hrp_<endpoint>.<pool>.<id of the endpoint's token>.<MAC>`: good as long as the endpoint's own token is."""

    endpoint_id: UUID
    pool: str
    token_id: str

    def text(self, keys: KeyRing) -> str:
        """The token, signed."""
        return f"{_MARK}{self._claims}.{keys.ticket(_PURPOSE, self._claims)}"

    @classmethod
    def read(cls, text: str, keys: KeyRing) -> Self | None:
        """Take a token apart; None when it is a token of another kind. Raises `Unauthenticated` when it is not ours."""
        if not text.startswith(_MARK):
            return None
        claims, _, ticket = text.removeprefix(_MARK).rpartition(".")
        if not keys.check_ticket(ticket, _PURPOSE, claims):
            raise Unauthenticated("this is not a pool's token of this service", problem="invalid_token")
        endpoint, pool, token_id = claims.split(".")
        return cls(endpoint_id=UUID(endpoint), pool=pool, token_id=token_id)

    @property
    def _claims(self) -> str:
        return f"{self.endpoint_id.hex}.{self.pool}.{self.token_id}"
