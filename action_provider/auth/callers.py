"""Who is asking."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from headrace.action_provider.auth.identities import Identity
from headrace.bus.names import token
from headrace.bus.urns import USER_URN, canonical, canonical_set, is_globus_group

__all__ = ["USER_URN", "Authenticator", "Caller", "user_key", "user_urn"]

FindGroups = Callable[[], Awaitable[frozenset[str]]]
"""Asks another system for the URNs of the caller's groups. Raises `ConsentRequired` and `Unavailable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated caller, by URNs in their canonical form.

    Somebody may be several: accounts that Globus Auth has linked are one person. What belongs to, or is shared with,
    any of them is the caller's; what the caller makes belongs to the principal.
    """

    principal: str
    token_id: str
    urns: frozenset[str] = field(default_factory=frozenset)
    """The principal, the identities linked to it, and those of its groups that are known without asking anybody."""
    linked: frozenset[str] = field(default_factory=frozenset)
    """The identities that are linked to the principal."""
    admin: bool = False
    endpoint_id: UUID | None = None
    """Set for the token of an endpoint, which may only act for that endpoint."""
    publishes: str | None = None
    """Set for a token that may do nothing but publish: what the sources of its events begin with."""
    expires_at: float | None = None
    """When the token expires, in unix seconds: nothing that it opens lasts longer."""
    identity: Identity | None = field(default=None, compare=False, repr=False)
    """What another system said; None for the tokens of this service."""
    find_groups: FindGroups | None = field(default=None, compare=False, repr=False)
    """Finds the groups that are not in `urns`, where there may be some."""

    @property
    def is_foreign(self) -> bool:
        """Whether the token is of another system, so that nothing here says whether it is still good."""
        return self.identity is not None

    @property
    def accounts(self) -> dict[str, str]:
        """The user names of the caller's accounts at another system, by their URNs, as far as it tells them; the
        principal's first."""
        personas = self.identity.personas if self.identity is not None else ()
        return {canonical(each.urn): each.username for each in personas if each.username}

    def at_most_s(self, wanted_s: float) -> float:
        """A time of life that does not go beyond the token's."""
        return wanted_s if self.expires_at is None else max(1.0, min(wanted_s, self.expires_at - time.time()))

    def is_(self, urn: str) -> bool:
        """Whether this is the caller, under whichever of their names."""
        name = canonical(urn)
        return name == self.principal or name in self.linked

    async def among(self, urns: Iterable[str]) -> frozenset[str]:
        """Which of these the caller is, or is in. Groups of other systems are asked for only where a list names one and
        nothing else in it matches. Raises `ConsentRequired` and `Unavailable` when they cannot be asked for."""
        wanted = canonical_set(urns)
        found = wanted & self.urns
        if found or self.find_groups is None or not any(map(is_globus_group, wanted)):
            return found
        return wanted & await self.find_groups()


class Authenticator(Protocol):
    """Tells who holds a bearer token. Tokens of other systems come in by other implementations."""

    async def authenticate(self, bearer: str) -> Caller | None:
        """The caller, or None when the token is not of this authenticator's kind.

        Raises `Unauthenticated` when it is, but is unknown or has expired; `Forbidden` when it is good, but not for
        this service; `Unavailable` when whoever knows does not answer.
        """


def user_urn(name: str) -> str:
    """The principal of a user of the built-in tokens."""
    return USER_URN + name


def user_key(name: str) -> str:
    """The key of a user's record."""
    return token(name)
