"""The keys with which an OpenID Connect issuer signs, as they change."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from headrace.action_provider.auth.settings import OidcSettings
from headrace.action_provider.errors import Unavailable
from headrace.bus.errors import NetworkUnusable
from headrace.bus.hosts import is_loopback
from headrace.bus.light_httpx import httpx
from headrace.bus.network import Network

logger = logging.getLogger(__name__)

DISCOVERY: Final = "/.well-known/openid-configuration"
_MOST_BYTES: Final = 1_000_000
_MOST_KEYS: Final = 100
_KEPT_S: Final = 86_400.0
"""How long keys are used that cannot be fetched anew."""
_KINDS: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class IssuerKeys:
    """The keys of one issuer. Fetched when they are needed, again when they are old, and when a token names one that is
    not among them: but never more often than `refetch_s`, however many such tokens come."""

    def __init__(self, settings: OidcSettings, network: Network) -> None:
        self._settings = settings
        self._network = network
        self._keys: tuple[jwt.PyJWK, ...] = ()
        self._fetched_at = -float("inf")
        self._tried_at = -float("inf")
        self._fetching = asyncio.Lock()
        self._url = settings.jwks_url

    async def fitting(self, algorithm: str, key_id: str | None) -> list[jwt.PyJWK]:
        """The keys that may have made a signature with this algorithm: the one of that id, or all when there is none.

        Raises `Unavailable` when the issuer does not answer and has not answered for long.
        """
        now = time.monotonic()
        if now - self._fetched_at > self._settings.keys_s:
            await self._refresh(needed=now - self._fetched_at > _KEPT_S)
        found = self._chosen(algorithm, key_id)
        if not found:
            # Perhaps the issuer has new ones.
            await self._refresh(needed=False)
            found = self._chosen(algorithm, key_id)
        return found

    def _chosen(self, algorithm: str, key_id: str | None) -> list[jwt.PyJWK]:
        return [key for key in self._keys if (key_id is None or key.key_id == key_id) and _fits(key, algorithm)]

    async def _refresh(self, *, needed: bool) -> None:
        async with self._fetching:
            now = time.monotonic()
            if now - self._tried_at < self._settings.refetch_s:
                if needed and not self._keys:
                    raise self._away()
                return
            self._tried_at = now
            try:
                self._keys = _usable(await self._fetch())
                self._fetched_at = time.monotonic()
            except (httpx.HTTPError, NetworkUnusable, ValueError, KeyError, TypeError) as error:
                logger.warning(
                    "The keys of %s cannot be fetched: %s",
                    self._settings.issuer,
                    error or type(error).__name__,
                    extra={"action": "issuer_keys_not_fetched", "issuer": self._settings.issuer},
                )
                if needed:
                    self._keys = ()
                    raise self._away() from None

    def _away(self) -> Unavailable:
        return Unavailable(
            f"the keys of {self._settings.issuer} cannot be had now, so its tokens cannot be checked; try again",
            retry_after_s=max(1, round(self._settings.refetch_s)),
        )

    async def _fetch(self) -> Any:
        url = self._url
        if not url:
            about = await self._get(self._settings.issuer.rstrip("/") + DISCOVERY)
            if about["issuer"] != self._settings.issuer:
                raise ValueError(f"its discovery document is that of {about['issuer']!r}: write the issuer like that")
            url = str(about["jwks_uri"])
        document = await self._get(url)
        # Only an address that has worked once is kept: a mistaken document must not stay for ever.
        self._url = self._settings.jwks_url or url
        return document["keys"]

    async def _get(self, url: str) -> Any:
        parts = urlsplit(url)
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ValueError(f"{url} is not an https:// URL")
        options = self._network.http_options(url)
        async with (
            httpx.AsyncClient(timeout=self._settings.try_s, **options) as client,
            client.stream("GET", url, headers={"Accept": "application/json"}) as answer,
        ):
            answer.raise_for_status()
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise ValueError(f"{url} answers with more than {_MOST_BYTES} bytes")
        return json.loads(body)


def _usable(documents: Any) -> tuple[jwt.PyJWK, ...]:
    """The keys that verify signatures; what else lies beside them is passed over. Raises `ValueError` without any."""
    found = []
    for document in list(documents)[:_MOST_KEYS]:
        # A shared secret has no place in a public document; whoever knows it could sign.
        if not isinstance(document, dict) or document.get("kty") not in _KINDS.values():
            continue
        if document.get("use", "sig") != "sig":
            continue
        try:
            found.append(jwt.PyJWK(document))
        except jwt.PyJWTError:
            continue
    if not found:
        raise ValueError("there is no key in it that verifies signatures")
    return tuple(found)


def _fits(key: jwt.PyJWK, algorithm: str) -> bool:
    """Whether a key is for this algorithm: by what it says itself, and in any case by its kind."""
    said = key._jwk_data.get("alg")
    return key.key_type == _KINDS[algorithm[:2]] and said in (None, algorithm)
