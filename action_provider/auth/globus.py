"""Sign in with Globus: this service is a resource server of Globus Auth, and asks it who holds a token."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

from headrace.action_provider.auth.cache import Cache, Found, key_of
from headrace.action_provider.auth.globus_calls import CredentialsRefused, GlobusCalls, TokenGone
from headrace.action_provider.auth.identities import Identity, Persona, several_factors
from headrace.action_provider.auth.settings import GlobusSettings
from headrace.action_provider.errors import (
    ConsentRequired,
    Forbidden,
    ServiceError,
    ServiceUnusable,
    Unauthenticated,
    Unavailable,
)
from headrace.bus.urns import GLOBUS_GROUP_URN, GLOBUS_IDENTITY_URN

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_IDENTITIES: Final = 100
_RESERVED: Final = 2
"""Questions at a time that are kept for tokens which were good before."""
_REMEMBERED_S: Final = 3600.0
_MARGIN_S: Final = 60.0
"""Tokens for Globus Groups are not used in their last moments."""


class GlobusAuth:
    """Who holds a token of Globus. Nothing is asked before `open`; `close` ends it."""

    name = "Globus"
    token_kind = "globus"  # noqa: S105  # the beginning of an id

    def __init__(self, settings: GlobusSettings) -> None:
        self._settings = settings
        size = settings.most_tokens
        self._identities: Cache[Identity] = Cache(size=size, name="a token of Globus")
        # Apart, so that whoever tries many tokens does not drive out those that are good.
        self._refused: Cache[ServiceError] = Cache(size=size, name="a token that is refused")
        self._groups: Cache[frozenset[str] | ServiceError] = Cache(size=size, name="groups of Globus")
        self._groups_tokens: Cache[str] = Cache(size=size, name="a token for Globus Groups")
        self._policies: Cache[bool] = Cache(size=size, name="a policy of Globus")
        self._slots = asyncio.Semaphore(settings.most_at_once)
        # Whoever sends many tokens that nobody knows must not keep those waiting whose tokens were good a while ago.
        self._slots_of_strangers = asyncio.Semaphore(max(1, settings.most_at_once - _RESERVED))
        self._were_good: Cache[bool] = Cache(size=size, name="a token that was good")

    @property
    def scope(self) -> str | None:
        """What callers need."""
        return self._settings.needed_scope

    async def open(self) -> None:
        """Make ready, and see whether Globus Auth takes our credentials, if it answers. Raises `ServiceUnusable`."""
        self._calls = GlobusCalls(self._settings)
        self._threads = ThreadPoolExecutor(self._settings.most_at_once, thread_name_prefix="globus")
        try:
            await self._on_thread(partial(self._calls.introspect, "headrace-asks-whether-its-credentials-are-good"))
        except CredentialsRefused:
            self._threads.shutdown(wait=False, cancel_futures=True)
            raise ServiceUnusable(
                f"Globus Auth does not take the client id {self._settings.client_id} with its secret; make a new secret"
                " at https://app.globus.org/settings/developers"
            ) from None
        except Unavailable:
            logger.warning(
                "Globus Auth does not answer at this moment; its tokens are refused with 503 until it does.",
                extra={"action": "globus_away"},
            )

    async def close(self) -> None:
        """End what is asked at this moment; a thread that waits for an answer ends by itself, `try_s` later at most."""
        for cache in (self._identities, self._refused, self._groups, self._groups_tokens, self._policies):
            await cache.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def identify(self, bearer: str) -> Identity | None:
        """Who holds the token. Raises `Unauthenticated`, `Forbidden` and `Unavailable`."""
        key = key_of(bearer)
        refusal = self._refused.peek(key)
        if refusal is not None:
            raise refusal.with_traceback(None)
        try:
            return await self._identities.get(key, partial(self._introspected, bearer, key))
        except (Unauthenticated, Forbidden) as error:
            self._refused.keep(key, Found(error, self._settings.believe_s))
            raise

    async def _introspected(self, bearer: str, key: str) -> Found[Identity]:
        document = await self._introspection(bearer, key)
        if document.get("active") is not True:
            raise _no_good()
        self._check_scope(document)
        identity = Identity(
            personas=_personas(document),
            expires_at=_number(document.get("exp")),
            find_groups=partial(self._find_groups, bearer, key),
            satisfies=partial(self._satisfies, bearer, key),
        )
        self._were_good.keep(key, Found(True, _REMEMBERED_S))
        left_s = self._settings.believe_s
        if identity.expires_at is not None:
            left_s = min(left_s, identity.expires_at - time.time())
        return Found(identity, left_s)

    async def _introspection(self, bearer: str, key: str) -> dict[str, Any]:
        call = partial(self._calls.introspect, bearer)
        if self._were_good.peek(key):
            return await self._ask(call)
        try:
            async with asyncio.timeout(self._settings.deadline_s), self._slots_of_strangers:
                return await self._ask(call)
        except TimeoutError:
            raise _late() from None

    def _check_scope(self, document: dict[str, Any]) -> None:
        """Raises `Forbidden`, which names the scope, unless the token is for this service."""
        needed, given = self._settings.needed_scope, str(document.get("scope") or "").split()
        audiences = document.get("aud")
        named = {audiences} if isinstance(audiences, str) else set(map(str, audiences or ()))
        if needed in given and (not named or not named.isdisjoint(self._settings.audiences)):
            return
        raise Forbidden(
            f"this token of Globus is good, but not for this service: get one with the scope {needed}",
            headers={
                "WWW-Authenticate": f'Bearer realm="headrace", error="insufficient_scope", scope="{needed}"',
            },
        )

    async def _find_groups(self, bearer: str, key: str) -> frozenset[str]:
        found = await self._groups.get(key, partial(self._found_groups, bearer, key))
        if isinstance(found, frozenset):
            return found
        raise found.with_traceback(None)

    async def _found_groups(self, bearer: str, key: str) -> Found[frozenset[str] | ServiceError]:
        for _ in range(2):
            try:
                token = await self._groups_tokens.get(key, partial(self._found_groups_token, bearer))
                ids = await self._ask(partial(self._calls.groups, token))
            except TokenGone:
                # Once more with a new one: consents may have been withdrawn and given again since.
                self._groups_tokens.forget(key)
                continue
            except ConsentRequired as error:
                # Whoever consents comes with a new token.
                return Found(error, self._settings.believe_s)
            return Found(frozenset(GLOBUS_GROUP_URN + each.lower() for each in ids), self._settings.groups_s)
        # Not an error of ours: the caller's token has ended meanwhile, which its next use will say.
        self._identities.forget(key)
        return Found(frozenset(), 0)

    async def _found_groups_token(self, bearer: str) -> Found[str]:
        token, expires_at = await self._ask(partial(self._calls.groups_token, bearer))
        return Found(token, expires_at - time.time() - _MARGIN_S)

    async def _satisfies(self, bearer: str, key: str, policy: str) -> bool:
        async def found() -> Found[bool]:
            return Found(await self._ask(partial(self._calls.satisfies, bearer, policy)), self._settings.policies_s)

        return await self._policies.get(f"{key} {policy}", found)

    async def _ask(self, call: Callable[[], T]) -> T:
        """Ask for a caller. Raises `Unavailable` and what the call raises."""
        try:
            return await self._on_thread(call)
        except CredentialsRefused:
            raise Unavailable(
                "tokens of Globus cannot be checked: Globus Auth does not take this service's own credentials;"
                " its administrator has to look at them",
                retry_after_s=60,
            ) from None

    async def _on_thread(self, call: Callable[[], T]) -> T:
        """Ask on a thread. Raises `Unavailable` when that takes too long, and what the call raises."""
        try:
            async with asyncio.timeout(self._settings.deadline_s), self._slots:
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError:
            raise _late() from None


def _late() -> Unavailable:
    return Unavailable("Globus, which knows this token, did not answer in time; try again", retry_after_s=5)


def _no_good() -> Unauthenticated:
    return Unauthenticated(
        "this token is not one that Globus Auth knows as good; it has expired, or was revoked: get another one",
        problem="invalid_token",
    )


def _personas(document: dict[str, Any]) -> tuple[Persona, ...]:
    """All identities of a token's holder, the one that it was made for first. Raises `Unavailable`."""
    details = {
        str(each["sub"]).lower(): each
        for each in document.get("identity_set_detail") or ()
        if isinstance(each, dict) and "sub" in each
    }
    subject = str(document.get("sub") or "").lower()
    details.setdefault(subject, {}).setdefault("username", document.get("username"))
    session = document.get("session_info")
    authentications = session.get("authentications") if isinstance(session, dict) else None
    signed_in = {
        str(identity).lower(): said
        for identity, said in (authentications if isinstance(authentications, dict) else {}).items()
        if isinstance(said, dict)
    }
    names = [subject, *(str(each).lower() for each in document.get("identity_set") or ()), *details]
    unique = list(dict.fromkeys(names))[:_MOST_IDENTITIES]
    try:
        return tuple(_persona(str(UUID(each)), details.get(each, {}), signed_in.get(each, {})) for each in unique)
    except ValueError:
        logger.error("Globus Auth named an identity that is no UUID.", extra={"action": "globus_odd_answer"})
        raise Unavailable("Globus Auth says something about this token that is not understood here") from None


def _persona(identity: str, detail: dict[str, Any], said: dict[str, Any]) -> Persona:
    return Persona(
        urn=GLOBUS_IDENTITY_URN + identity,
        username=str(detail.get("username") or ""),
        authenticated_at=_moment(said.get("auth_time")),
        mfa=several_factors(said.get("amr"), said.get("acr")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _moment(value: object) -> float | None:
    """A time in unix seconds, also of one that is written as ISO 8601 has it."""
    if not isinstance(value, str):
        return _number(value)
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
