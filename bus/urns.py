"""Who is who: principals and groups as URNs, of this service and of others, in the one form in which they are compared.

urn:headrace:user:ada                  a user of the built-in tokens
urn:headrace:group:lab                 a group of such users
urn:globus:auth:identity:UUID          an identity of Globus Auth
urn:globus:groups:id:UUID              a group of Globus Groups
urn:headrace:oidc:ISSUER:user:NAME     somebody whom an OpenID Connect issuer knows
urn:headrace:oidc:ISSUER:group:NAME    a group of such an issuer
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

USER_URN: Final = "urn:headrace:user:"
GROUP_URN: Final = "urn:headrace:group:"
GLOBUS_IDENTITY_URN: Final = "urn:globus:auth:identity:"
GLOBUS_GROUP_URN: Final = "urn:globus:groups:id:"
OIDC_URN: Final = "urn:headrace:oidc:"

_GLOBUS: Final = "urn:globus:"


def canonical(urn: str) -> str:
    """A URN as it is compared. The UUIDs of Globus come in both cases and mean the same; in other names case counts."""
    lowered = urn.lower()
    return lowered if lowered.startswith(_GLOBUS) else urn


def canonical_set(urns: Iterable[str]) -> frozenset[str]:
    """URNs as they are compared."""
    return frozenset(map(canonical, urns))


def is_globus_group(urn: str) -> bool:
    """Whether only Globus Groups knows who is in it."""
    return urn.lower().startswith(GLOBUS_GROUP_URN)
