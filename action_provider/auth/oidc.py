"""Sign in with an OpenID Connect issuer: its tokens are JWTs, which are checked here with its public keys."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

import jwt

from headrace.action_provider.auth.identities import Identity, Persona, several_factors
from headrace.action_provider.auth.issuer_keys import IssuerKeys
from headrace.action_provider.auth.settings import OidcSettings
from headrace.action_provider.errors import Forbidden, Unauthenticated
from headrace.bus.network import DIRECT, Network

_MOST_GROUPS: Final = 1000
_LONGEST_NAME: Final = 200
_PROBLEM: Final = "invalid_token"


class OidcIssuer:
    """Who holds a token of one issuer."""

    def __init__(self, settings: OidcSettings, network: Network = DIRECT) -> None:
        self._settings = settings
        self._keys = IssuerKeys(settings, network)
        self.name = settings.name or settings.issuer

    @property
    def token_kind(self) -> str:
        """How the ids of its tokens begin."""
        return "oidc"

    @property
    def scope(self) -> str | None:
        """Scopes of an issuer are no matter of Globus Flows."""
        return None

    async def open(self) -> None:
        """Nothing is fetched before the first token comes."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    async def identify(self, bearer: str) -> Identity | None:
        """Who holds the token; None when another issuer made it, or it is no JWT. Raises `Unauthenticated`,
        `Forbidden` and `Unavailable`."""
        parts = _parts(bearer)
        if parts is None or parts[1].get("iss") != self._settings.issuer:
            return None
        header, _ = parts
        claims = await self._verified(bearer, header)
        self._check_audience(claims)
        self._check_scopes(claims)
        return self._identity(claims)

    async def _verified(self, bearer: str, header: dict[str, Any]) -> dict[str, Any]:
        """The claims, once signature and times are right."""
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms:
            raise Unauthenticated(
                f"this token is signed with {str(algorithm)[:20]!r}, which is not taken here", problem=_PROBLEM
            )
        keys = await self._keys.fitting(algorithm, key_id if isinstance(key_id, str) else None)
        for key in keys:
            try:
                claims: dict[str, Any] = jwt.decode(
                    bearer,
                    key.key,
                    algorithms=[algorithm],
                    issuer=self._settings.issuer,
                    leeway=self._settings.leeway_s,
                    options={"require": ["exp", "iss"], "verify_aud": False, "verify_iat": False},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise Unauthenticated("this token has expired; get another one", problem=_PROBLEM) from None
            except jwt.ImmatureSignatureError:
                raise Unauthenticated("this token is not valid yet; look at the clocks", problem=_PROBLEM) from None
            except (jwt.PyJWTError, ValueError, OverflowError) as error:
                raise Unauthenticated(f"this token is not one to believe: {error}", problem=_PROBLEM) from None
            return claims
        raise Unauthenticated(
            f"this token is not signed with a key of {self._settings.issuer}; get another one", problem=_PROBLEM
        )

    def _check_audience(self, claims: dict[str, Any]) -> None:
        said = claims.get("aud")
        named = {said} if isinstance(said, str) else {each for each in said or () if isinstance(each, str)}
        if named.isdisjoint(self._settings.audiences):
            wanted = " or ".join(self._settings.audiences)
            raise Forbidden(
                f"this token of {self._settings.issuer} is good, but not for this service: get one for the audience"
                f" {wanted}",
                headers={"WWW-Authenticate": f'Bearer realm="headrace", error="{_PROBLEM}"'},
            )

    def _check_scopes(self, claims: dict[str, Any]) -> None:
        said = claims.get("scope", claims.get("scp"))
        given = said.split() if isinstance(said, str) else [each for each in said or () if isinstance(each, str)]
        missing = [each for each in self._settings.scopes if each not in given]
        if missing:
            needed = " ".join(self._settings.scopes)
            raise Forbidden(
                f"this token of {self._settings.issuer} is good, but lacks the scope {' '.join(missing)}",
                headers={
                    "WWW-Authenticate": f'Bearer realm="headrace", error="insufficient_scope", scope="{needed}"',
                },
            )

    def _identity(self, claims: dict[str, Any]) -> Identity:
        settings = self._settings
        name = claims.get(settings.principal_claim)
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise Forbidden(
                f"this token does not say in {settings.principal_claim!r} who its holder is; its administrator has to"
                " see to that"
            )
        persona = Persona(
            urn=settings.user(name),
            username=_username(claims, settings.username_claim),
            authenticated_at=_number(claims.get("auth_time")),
            mfa=several_factors(claims.get("amr"), claims.get("acr")),
        )
        return Identity(personas=(persona,), groups=self._groups(claims), expires_at=float(claims["exp"]))

    def _groups(self, claims: dict[str, Any]) -> frozenset[str]:
        said = claims.get(self._settings.groups_claim)
        names = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        usable = [each for each in names if isinstance(each, str) and 0 < len(each) <= _LONGEST_NAME]
        return frozenset(map(self._settings.group, usable[:_MOST_GROUPS]))


def _parts(bearer: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Header and claims of a JWT, before anything is believed; None when it is none."""
    pieces = bearer.split(".")
    if len(pieces) != 3:
        return None
    try:
        header, claims = (json.loads(base64.urlsafe_b64decode(each + "=" * (-len(each) % 4))) for each in pieces[:2])
    except (binascii.Error, ValueError, RecursionError):
        return None
    return (header, claims) if isinstance(header, dict) and isinstance(claims, dict) else None


def _username(claims: dict[str, Any], claim: str) -> str:
    """What a policy looks for a domain in. Names that people choose, and addresses that nobody has verified, anybody
    could have written: an administrator who knows better names the claim."""
    if claim:
        return str(claims.get(claim) or "")
    return str(claims.get("email") or "") if claims.get("email_verified") is True else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
