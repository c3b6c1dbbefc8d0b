"""Who may sign in, and how: made once at the command line. Secrets are not shown by `repr`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit

from headrace.bus.network import DIRECT, Network
from headrace.bus.urns import OIDC_URN

SIGNATURES: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
"""Algorithms whose verifying key may be public. `none` and those with a shared secret are never taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Who of another system's users may use this service at all; with nothing said, all whose tokens are good."""

    urns: frozenset[str] = frozenset()
    """Identities and groups, in canonical form."""
    domains: tuple[str, ...] = ()
    """Domains of user names, `*.example.org` for all below one."""

    @property
    def is_open(self) -> bool:
        """Whether nobody is kept out."""
        return not self.urns and not self.domains


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobusSettings:
    """This service as a resource server of Globus Auth."""

    client_id: str
    client_secret: str = field(repr=False)
    scope: str = ""
    """What callers need; empty is `https://auth.globus.org/scopes/<client_id>/action_all`."""
    admission: Admission = Admission()
    believe_s: float = 30.0
    """How long Globus Auth is not asked again whether a token is good."""
    groups_s: float = 300.0
    policies_s: float = 60.0
    try_s: float = 3.0
    """How long one request to Globus Auth may take; it is tried twice."""
    deadline_s: float = 8.0
    """How long a caller waits for all that has to be asked; then 503."""
    most_at_once: int = 8
    most_tokens: int = 10_000

    @property
    def needed_scope(self) -> str:
        """What callers need."""
        return self.scope or f"https://auth.globus.org/scopes/{self.client_id}/action_all"

    @property
    def audiences(self) -> frozenset[str]:
        """How Globus Auth may call this service in the `aud` of a token: by its id, or by its name in the scope."""
        name = self.needed_scope.removeprefix("https://auth.globus.org/scopes/").partition("/")[0]
        return frozenset({self.client_id, name})


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcSettings:
    """An OpenID Connect issuer whose tokens (JWTs) are taken."""

    issuer: str
    audiences: tuple[str, ...]
    """What a token must be for: one of these."""
    name: str = ""
    """How its users' URNs call it; empty is its address."""
    principal_claim: str = "sub"
    username_claim: str = ""
    """Where policies look for a domain; empty is `email`, where the issuer says that it has verified it."""
    groups_claim: str = "groups"
    scopes: tuple[str, ...] = ()
    """Scopes that a token must have, all of them."""
    algorithms: tuple[str, ...] = SIGNATURES
    jwks_url: str = ""
    """Where its keys are; empty asks its discovery document."""
    leeway_s: float = 30.0
    """How far clocks may be apart."""
    keys_s: float = 3600.0
    """How often its keys are fetched anew."""
    refetch_s: float = 10.0
    """How soon at the earliest they are fetched again for a key that nobody knows."""
    try_s: float = 4.0
    admission: Admission = Admission()

    @property
    def urn(self) -> str:
        """How the URNs of its users and groups begin. No part of them holds a colon, so they cannot be mistaken."""
        parts = urlsplit(self.issuer)
        return OIDC_URN + quote(self.name or f"{parts.netloc}{parts.path}".rstrip("/"), safe="") + ":"

    def user(self, value: str) -> str:
        """The URN of a user."""
        return f"{self.urn}user:{quote(value, safe='@')}"

    def group(self, value: str) -> str:
        """The URN of a group."""
        return f"{self.urn}group:{quote(value, safe='@')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """All ways to sign in. The tokens of endpoints are always taken: the service itself gives them."""

    tokens: bool = True
    """Whether the built-in tokens of users are taken."""
    globus: GlobusSettings | None = None
    oidc: tuple[OidcSettings, ...] = ()
    network: Network = DIRECT
    """How issuers are reached."""
    admins: frozenset[str] = frozenset()
    """Identities of other systems that are administrators, in canonical form."""
    session_ttl_s: float = 300.0
    """How long sessions of other systems' users live at most before they are renewed with a token that is good."""
    watch_s: float = 15.0
    """How often tokens of other systems that hold live sessions are looked at."""

    @property
    def is_foreign(self) -> bool:
        """Whether tokens of other systems are taken."""
        return self.globus is not None or bool(self.oidc)
