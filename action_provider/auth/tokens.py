"""Built-in API tokens: `hr_<id>_<secret>`. The id leads to the record, which holds the SHA-256 of the whole."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from uuid import UUID

from headrace.action_provider.auth.callers import Caller, user_key, user_urn
from headrace.action_provider.errors import Unauthenticated
from headrace.bus.store.models import TokenRecord, UserRecord
from headrace.bus.store.tables import Tables
from headrace.bus.urns import canonical_set

_FORM = re.compile(r"hr_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_MOST_CACHED = 10_000
_UNKNOWN = "this token is not known here, or was revoked; get another one with `headrace token create`"


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token at the only moment when it can be read."""

    text: str
    record: TokenRecord


def new_token(
    *,
    principal: str,
    endpoint_id: UUID | None = None,
    publishes: str | None = None,
    label: str = "",
    expires_at: float | None = None,
) -> NewToken:
    """A fresh token and its record, not stored yet. With `endpoint_id` it may only act for that endpoint, with
    `publishes` only publish events whose source begins so."""
    token_id = secrets.token_hex(8)
    text = f"hr_{token_id}_{secrets.token_urlsafe(32)}"
    return NewToken(
        text,
        record_of(
            text,
            principal=principal,
            endpoint_id=endpoint_id,
            publishes=publishes,
            label=label,
            expires_at=expires_at,
        ),
    )


def record_of(
    text: str,
    *,
    principal: str,
    endpoint_id: UUID | None = None,
    publishes: str | None = None,
    label: str = "",
    expires_at: float | None = None,
) -> TokenRecord:
    """The record of a token. Raises `ValueError` when the text is not a token."""
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError("not a Headrace token (hr_<id>_<secret>)")
    return TokenRecord(
        token_id=form[1],
        sha256=_digest(text),
        kind="endpoint" if endpoint_id is not None else "user" if publishes is None else "publisher",
        principal=principal,
        created_at=time.time(),
        endpoint_id=endpoint_id,
        label=label,
        expires_at=expires_at,
        publishes=publishes or "",
    )


@dataclass(slots=True)
class _Known:
    caller: Caller
    expires_at: float | None
    stale_at: float


class BuiltInTokens:
    """Authenticates built-in tokens. What was looked up is believed for `cache_s`, so a revoked token dies that soon
    on every replica, and at once on the one that revoked it."""

    def __init__(self, tables: Tables, *, cache_s: float) -> None:
        self._tables = tables
        self._cache_s = cache_s
        self._known: dict[str, _Known] = {}

    async def authenticate(self, bearer: str) -> Caller | None:
        """The caller; None when this is not a built-in token. Raises `Unauthenticated`."""
        form = _FORM.fullmatch(bearer)
        if form is None:
            return None
        digest = _digest(bearer)
        known = self._known.get(digest)
        if known is None or known.stale_at <= time.monotonic():
            known = await self._look_up(form[1], digest)
        if known.expires_at is not None and known.expires_at <= time.time():
            raise Unauthenticated(
                "this token has expired; get another one with `headrace token create`", problem="invalid_token"
            )
        return known.caller

    def forget(self, bearer: str | None = None) -> None:
        """Look this token, or every one, up again: something was withdrawn, or may have been."""
        if bearer is None:
            self._known.clear()
        else:
            self._known.pop(_digest(bearer), None)

    async def _look_up(self, token_id: str, digest: str) -> _Known:
        self._known.pop(digest, None)
        found = await self._tables.tokens.get(token_id)
        if found is None or found.value.revoked or not hmac.compare_digest(found.value.sha256, digest):
            raise Unauthenticated(_UNKNOWN, problem="invalid_token")
        if len(self._known) >= _MOST_CACHED:
            self._known.clear()
        known = _Known(await self._caller(found.value), found.value.expires_at, time.monotonic() + self._cache_s)
        self._known[digest] = known
        return known

    async def _caller(self, record: TokenRecord) -> Caller:
        if record.kind == "endpoint":
            return Caller(
                principal=record.principal,
                token_id=record.token_id,
                endpoint_id=record.endpoint_id,
                expires_at=record.expires_at,
            )
        name = record.principal.removeprefix(user_urn(""))
        user = await self._tables.users.get(user_key(name))
        if user is None or user.value.removed_at is not None:
            raise Unauthenticated(_UNKNOWN, problem="invalid_token")
        return _user_caller(record, user.value)


def _user_caller(record: TokenRecord, user: UserRecord) -> Caller:
    return Caller(
        principal=user.principal,
        token_id=record.token_id,
        urns=canonical_set((user.principal, *user.groups)),
        admin=user.admin and record.kind == "user",
        expires_at=record.expires_at,
        publishes=record.publishes if record.kind == "publisher" else None,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
