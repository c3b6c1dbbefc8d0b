"""Sessions that are held open, to see them end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from service import RunningService

from headrace.bus.errors import BusUnavailable, PermissionDenied
from headrace.bus.installation.credentials import Credentials
from headrace.bus.nats.connection import Connection

SDK = {"protocol": 1, "sdk_version": "0.1.0", "python_version": "3.11.7"}


def open_session(service: RunningService, token: str, endpoint_id: str) -> dict[str, Any]:
    answer = service.http(token).post("/api/v1/sessions", json={**SDK, "endpoint_id": endpoint_id})
    assert answer.status_code == 201, answer.text
    session: dict[str, Any] = answer.json()
    return session


@contextlib.asynccontextmanager
async def connected(session: dict[str, Any]) -> AsyncIterator[Connection]:
    credentials = Credentials(jwt=session["jwt"], seed=session["seed"], inbox_prefix=session["inbox_prefix"])
    async with Connection(session["nats_urls"], credentials, name="test", connect_timeout_s=5.0) as connection:
        yield connection


async def is_let_in(session: dict[str, Any]) -> bool:
    try:
        async with connected(session):
            return True
    except (PermissionDenied, BusUnavailable):
        return False


def ends_within(
    service: RunningService, session: dict[str, Any], withdraw: Callable[[], object], within_s: float = 5.0
) -> None:
    """Hold a connection, withdraw, and see the connection end and the credential refused."""

    async def hold() -> None:
        async with connected(session) as connection:
            closed = asyncio.Event()
            connection.on_closed.append(closed.set)
            async with asyncio.timeout(within_s):
                await asyncio.to_thread(withdraw)
                await closed.wait()
        assert not await is_let_in(session)

    service.loop.run(hold())
