"""Callers whom another system knows: what it says of them, and what this service knows of them besides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from headrace.action_provider.auth.cache import Cache, Found, key_of
from headrace.action_provider.auth.callers import Caller, user_key
from headrace.action_provider.auth.domains import domain_matches
from headrace.action_provider.auth.identities import Identity, IdentitySource
from headrace.action_provider.auth.settings import Admission
from headrace.action_provider.errors import Forbidden
from headrace.bus.store.models import UserRecord
from headrace.bus.store.tables import Tables
from headrace.bus.urns import canonical, canonical_set

_MOST_CACHED: Final = 10_000


class ForeignTokens:
    """Authenticates tokens of one other system.

    Nobody has to be added here before they come. Whoever is (`headrace user add urn:…`) may be in groups of this
    service, be an administrator, or be shut out (`headrace user remove`); what is changed there counts after `cache_s`.
    """

    def __init__(
        self, source: IdentitySource, tables: Tables, *, admins: frozenset[str], admission: Admission, cache_s: float
    ) -> None:
        self.source = source
        self._tables = tables
        self._admins = admins
        self._admission = admission
        self._cache_s = cache_s
        self._callers: Cache[Caller] = Cache(size=_MOST_CACHED, name=f"a caller of {source.name}")

    async def authenticate(self, bearer: str) -> Caller | None:
        """The caller; None when the token is not of this system's kind. Raises `Unauthenticated`, `Forbidden` and
        `Unavailable`."""
        key = key_of(bearer)
        known = self._callers.peek(key)
        if known is not None and (known.expires_at is None or known.expires_at > time.time()):
            return known
        identity = await self.source.identify(bearer)
        if identity is None:
            return None
        return await self._callers.get(key, lambda: self._found(identity, key))

    def forget(self, bearer: str | None = None) -> None:
        """Look up anew what this service knows of the token's holder, or of everybody."""
        if bearer is None:
            self._callers.clear()
        else:
            self._callers.forget(key_of(bearer))

    async def close(self) -> None:
        """End what is looked up at this moment, and let go of the other system."""
        await self._callers.close()
        await self.source.close()

    async def _found(self, identity: Identity, key: str) -> Found[Caller]:
        names = identity.names
        records = await self._records(names)
        groups = {canonical(group) for record in records for group in record.groups}
        caller = Caller(
            principal=canonical(identity.principal),
            token_id=f"{self.source.token_kind}-{key[:32]}",
            urns=canonical_set((*names, *identity.groups, *groups)),
            linked=canonical_set(names) - {canonical(identity.principal)},
            admin=any(record.admin for record in records) or not canonical_set(names).isdisjoint(self._admins),
            expires_at=identity.expires_at,
            identity=identity,
            find_groups=identity.find_groups,
        )
        if not (caller.admin or await self._admits(caller)):
            raise Forbidden(
                f"you are {caller.principal}, who may not use this service; ask its administrator to let you in"
            )
        return Found(caller, self._cache_s)

    async def _records(self, names: Iterable[str]) -> list[UserRecord]:
        """What is known here of somebody, by any of their names. Raises `Forbidden` when they were shut out."""
        found = await asyncio.gather(*(self._tables.users.get(user_key(name)) for name in sorted(names)))
        records = [each.value for each in found if each is not None]
        for record in records:
            if record.removed_at is not None:
                raise Forbidden(f"{record.principal} was removed from this service; ask its administrator")
        return records

    async def _admits(self, caller: Caller) -> bool:
        admission, identity = self._admission, caller.identity
        if admission.is_open or identity is None:
            return True
        if any(domain_matches(each.domain, admission.domains) for each in identity.personas):
            return True
        return bool(await caller.among(admission.urns))
