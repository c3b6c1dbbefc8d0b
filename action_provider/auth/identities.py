"""What other systems say of whoever holds a token of theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Persona:
    """One account of somebody, and how it was signed in to, as far as its system says."""

    urn: str
    username: str = ""
    """Such as `ada@example.org`; what is behind the last @ is its domain."""
    authenticated_at: float | None = None
    """When somebody last proved to be this, for the token's session, in unix seconds."""
    mfa: bool = False
    """Whether that took more than a password."""

    @property
    def domain(self) -> str:
        """The domain of the account, in small letters; empty when there is none."""
        return self.username.rpartition("@")[2].lower() if "@" in self.username else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who holds a token: `personas` are all accounts of that somebody, the first one is the principal."""

    personas: tuple[Persona, ...]
    groups: frozenset[str] = frozenset()
    """Those that came with the token."""
    expires_at: float | None = None
    find_groups: Callable[[], Awaitable[frozenset[str]]] | None = field(default=None, compare=False, repr=False)
    """Asks for more of them."""
    satisfies: Callable[[str], Awaitable[bool]] | None = field(default=None, compare=False, repr=False)
    """Asks the system whether a policy that it knows by this id is satisfied."""

    @property
    def principal(self) -> str:
        """Whose name stands under what the holder makes."""
        return self.personas[0].urn

    @property
    def names(self) -> frozenset[str]:
        """All names of the holder."""
        return frozenset(each.urn for each in self.personas)


class IdentitySource(Protocol):
    """Another system that knows who holds a token."""

    @property
    def name(self) -> str:
        """How it is called in messages."""

    @property
    def token_kind(self) -> str:
        """How the ids of its tokens begin: `globus`."""

    @property
    def scope(self) -> str | None:
        """The scope that a token needs for this service, where the system has such."""

    async def open(self) -> None:
        """Make ready. Raises `ServiceUnusable` when what it was given cannot work."""

    async def close(self) -> None:
        """Let go of everything."""

    async def identify(self, bearer: str) -> Identity | None:
        """Who holds the token; None when it is not of this system's kind.

        Raises `Unauthenticated` when it is no good (any more), `Forbidden` when it is, but not for this service, and
        `Unavailable` when the system does not answer.
        """


def several_factors(methods: object, context: object) -> bool:
    """Whether an authentication took more than a password: by its methods (`amr`), or its context (`acr`), as REFEDS
    calls it."""
    named = "mfa" in methods if isinstance(methods, list) else methods == "mfa"
    return named or (isinstance(context, str) and context.endswith("/profile/mfa"))
