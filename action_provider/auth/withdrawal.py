"""Ending sessions before their credentials expire: what a withdrawn token or access takes with it.

A session that must end leaves a record in `revocations`. Every service watches these, and states the account of SDKs
and pools anew to the NATS servers, without the users that are revoked; the servers close their connections at once. A
server that starts again knows nothing of it, and is told again as soon as the connection to it is back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from headrace.action_provider.errors import Unauthenticated
from headrace.bus.errors import BusUnavailable
from headrace.bus.installation.credentials import Credentials, KeyPair
from headrace.bus.installation.service_keys import Revocation
from headrace.bus.nats.connection import Connection
from headrace.bus.network import DIRECT, Network
from headrace.bus.store.models import EndpointRecord, RevocationRecord, SessionRecord, UserRecord
from headrace.bus.store.records import Record
from headrace.bus.store.tables import Tables

logger = logging.getLogger(__name__)

_AGAIN_S = 0.5
_SKIPPED = b"update skipped"


async def keep_session(tables: Tables, session: SessionRecord) -> None:
    """Record a session before its credential is given away. Raises `Unauthenticated`."""
    await tables.sessions.put(session.session_id, session, ttl_s=max(1.0, session.expires_at - time.time()))
    if session.urns:
        # Of another system's user: nothing here says whether the token is good, and the caller is asked for once more.
        return
    # A withdrawal first removes the token and then looks for its sessions: one that comes too late for that look finds
    # the token gone.
    token = await tables.tokens.get(session.token_id)
    if token is None or token.value.revoked:
        raise Unauthenticated("this token was revoked", problem="invalid_token")


def user_key(credentials: Credentials) -> str:
    """The public key of a NATS user."""
    return KeyPair(credentials.seed).public


async def end_sessions(tables: Tables, ends: Callable[[SessionRecord], bool]) -> int:
    """End the sessions that `ends` chooses; gives their number."""
    chosen = [record.value for record in await tables.sessions.list() if ends(record.value)]
    for session in chosen:
        revoked = RevocationRecord(user_key=session.user_key, expires_at=session.expires_at)
        await tables.revocations.put(session.user_key, revoked, ttl_s=max(1.0, session.expires_at - time.time()) + 60)
        await tables.sessions.delete(session.session_id)
    if chosen:
        logger.info("Ended %d sessions.", len(chosen), extra={"action": "sessions_ended", "count": len(chosen)})
    return len(chosen)


async def end_strangers_sessions(tables: Tables, endpoint: EndpointRecord) -> None:
    """End the SDK sessions of those who may not use the endpoint any more."""
    if endpoint.is_public:
        return
    groups = {record.value.principal: record.value.groups for record in await tables.users.list()}

    def is_stranger(session: SessionRecord) -> bool:
        urns = {session.principal, *session.urns, *groups.get(session.principal, ())}
        return session.endpoint_id == endpoint.endpoint_id and not endpoint.visible_to(urns)

    await end_sessions(tables, is_stranger)


async def end_lost_sessions(tables: Tables, user: UserRecord) -> None:
    """End a user's sessions at endpoints that neither the user nor a group of the user's may use any more."""
    endpoints = {record.value.endpoint_id: record.value for record in await tables.endpoints.list()}

    def is_lost(session: SessionRecord) -> bool:
        if session.principal != user.principal or session.endpoint_id not in endpoints:
            return False
        return not endpoints[session.endpoint_id].visible_to({user.principal, *user.groups, *session.urns})

    await end_sessions(tables, is_lost)


class Revoker:
    """Tells the NATS servers who is revoked. `run` until cancelled."""

    def __init__(self, nats_url: str, revocation: Revocation, tables: Tables, network: Network = DIRECT) -> None:
        self._nats_url = nats_url
        self._network = network
        self._revocation = revocation
        self._tables = tables
        self._revoked: dict[str, int] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Tell of every change, and everything again after each reconnect."""
        system = Connection(
            [self._nats_url], self._revocation.system, name="headrace revocations", network=self._network
        )
        system.on_connected.append(self._news.set)
        async with system:
            watch = await self._tables.revocations.watch(self._changed)
            try:
                await self._tell_for_ever(system)
            finally:
                await watch.stop()

    async def _tell_for_ever(self, system: Connection) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                answer = await system.request(self._revocation.subject, self._revocation.statement(self._revoked))
                if _SKIPPED in answer.data and self._revoked:
                    # A server that has just started knows the account only once somebody of it has connected.
                    await asyncio.sleep(_AGAIN_S)
                    self._news.set()
            except BusUnavailable as error:
                logger.warning(
                    "The NATS server could not be told who is revoked (%s); trying again.",
                    error,
                    extra={"action": "revocation_delayed"},
                )
                await asyncio.sleep(_AGAIN_S)
                self._news.set()

    def _changed(self, key: str, record: Record[RevocationRecord] | None) -> None:
        if record is None:
            # Its credential has expired by now, so the list need not be sent for this alone.
            self._revoked.pop(key, None)
            return
        self._revoked[key] = math.ceil(record.value.expires_at)
        self._news.set()
