"""Ends the sessions of tokens that another system does not take any more, or that lost what opened an endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from headrace.action_provider.api.access import endpoint_for
from headrace.action_provider.auth.live_tokens import LiveToken
from headrace.action_provider.auth.withdrawal import end_sessions
from headrace.action_provider.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from headrace.action_provider.state import Service
from headrace.bus.errors import BusError
from headrace.bus.store.models import SessionRecord

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 4


async def watch_tokens(service: Service) -> None:
    """Look at the tokens that hold live sessions, again and again until cancelled."""
    while True:
        await asyncio.sleep(service.settings.auth.watch_s)
        try:
            await look_once(service)
        except BusError as error:
            logger.info("Tokens are looked at later: %s", error, extra={"action": "tokens_not_watched"})


async def look_once(service: Service) -> None:
    """Look at every one of them. Raises `BusError`."""
    held = service.live_tokens.held()
    if not held:
        return
    sessions = [record.value for record in await service.tables.sessions.list()]
    places = asyncio.Semaphore(_AT_ONCE)

    async def look(token: LiveToken) -> None:
        async with places:
            await _look_at(service, token, [each for each in sessions if each.token_id == token.token_id])

    async with asyncio.TaskGroup() as group:
        for token in held:
            group.create_task(look(token), name="look at a token")


async def _look_at(service: Service, token: LiveToken, sessions: Sequence[SessionRecord]) -> None:
    try:
        caller = await service.authenticators.authenticate(token.bearer)
    except (Unauthenticated, Forbidden) as error:
        service.live_tokens.drop(token.token_id)
        if await end_sessions(service.tables, lambda session: session.token_id == token.token_id):
            logger.info("A token is no good any more: %s", error, extra={"action": "token_gone"})
        return
    except Unavailable:
        # Whoever knows does not answer: that ends nothing before its time.
        return
    lost = set()
    for session in sessions:
        try:
            await endpoint_for(service, caller, session.endpoint_id)
        except (NotFound, Forbidden):
            lost.add(session.session_id)
        except Unavailable:
            continue
    if lost:
        await end_sessions(service.tables, lambda session: session.session_id in lost)
