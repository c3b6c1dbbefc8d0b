"""Who is asking."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from headrace.bus.names import token

USER_URN = "urn:headrace:user:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated caller. `urns` are the principal and its groups: what a sharing list is compared with."""

    principal: str
    token_id: str
    urns: frozenset[str] = field(default_factory=frozenset)
    admin: bool = False
    endpoint_id: UUID | None = None
    """Set for the token of an endpoint, which may only act for that endpoint."""
    expires_at: float | None = None
    """When the token expires, in unix seconds: nothing that it opens lasts longer."""

    def at_most_s(self, wanted_s: float) -> float:
        """A time of life that does not go beyond the token's."""
        return wanted_s if self.expires_at is None else max(1.0, min(wanted_s, self.expires_at - time.time()))


class Authenticator(Protocol):
    """Tells who holds a bearer token. Tokens of other systems come in by other implementations."""

    async def authenticate(self, bearer: str) -> Caller | None:
        """The caller, or None when the token is not of this authenticator's kind.

        Raises `Unauthenticated` when it is, but is unknown or has expired.
        """


def user_urn(name: str) -> str:
    """The principal of a user of the built-in tokens."""
    return USER_URN + name


def user_key(name: str) -> str:
    """The key of a user's record."""
    return token(name)
