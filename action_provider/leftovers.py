"""What a refused request has not sent yet.

A server that answers before it has read the whole body, and closes, resets the connection under a client that is still
writing: such a client sees a broken pipe instead of the answer that says why. So the rest is read and dropped first,
within bounds; nothing of it is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES: Final = 256 * 1024 * 1024
WITHIN_S: Final = 10.0
SILENCE_S: Final = 0.5
"""A client from which nothing comes for so long waits for the answer, or has gone."""


class LeftoversDropped:
    """An application whose answers wait until the request's body is read, or is too long to wait for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _sends_a_body(scope):
            await self._app(scope, receive, send)
            return
        ended = False

        async def noted_receive() -> Message:
            nonlocal ended
            message = await receive()
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def patient_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not ended:
                await _drop(noted_receive, lambda: ended)
            await send(message)

        await self._app(scope, noted_receive, patient_send)


async def _drop(receive: Receive, ended: Callable[[], bool]) -> None:
    left = MOST_BYTES
    try:
        async with asyncio.timeout(WITHIN_S):
            while left > 0 and not ended():
                message = await asyncio.wait_for(receive(), SILENCE_S)
                left -= len(message.get("body", b""))
    except TimeoutError:
        return  # the answer goes out all the same


def _sends_a_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    # A client that asks first (`Expect: 100-continue`) sends nothing before it has our answer.
    return b"expect" not in headers and (
        headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
    )
