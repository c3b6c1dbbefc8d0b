"""Bodies that are too large to be held: read and sent piece by piece, with a limit for silence, none for the whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.action_provider.errors import MalformedRequest, RequestTimeout
from headrace.schemas import HeadraceError

logger = logging.getLogger(__name__)

SILENCE_S: Final = 60.0


async def body_pieces(request: Request, *, silence_s: float = SILENCE_S) -> AsyncIterator[bytes]:
    """The body as it comes. Raises `RequestTimeout` after a silence, and `MalformedRequest` when the caller leaves."""
    stream = request.stream().__aiter__()
    try:
        while True:
            async with asyncio.timeout(silence_s):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield piece
    except TimeoutError:
        raise RequestTimeout(f"nothing of the body came for {silence_s:g} s") from None
    except ClientDisconnect:
        raise MalformedRequest("the connection ended before the body did") from None


class StreamedAnswer(Response):
    """An answer whose content comes in pieces. It ends early when the caller leaves, or when the pieces fail: the
    caller, who knows the length, sees that it is not whole."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        *,
        status: int = 200,
        headers: Mapping[str, str],
        media_type: str,
        silence_s: float = SILENCE_S,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        self._pieces = pieces
        self._silence_s = silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        leaving = asyncio.create_task(_left(receive), name="the caller leaves")
        try:
            async with contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    async with asyncio.timeout(self._silence_s):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if leaving.done():
                        return
            await send({"type": "http.response.body", "body": b""})
        except (HeadraceError, TimeoutError) as error:
            # The server closes the connection of an answer that is not whole.
            logger.warning("An answer was broken off: %s", error or "the caller takes nothing of it", extra=_ACTION)
        finally:
            leaving.cancel()
            await asyncio.wait([leaving])


_ACTION = {"action": "answer_broken_off"}


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
