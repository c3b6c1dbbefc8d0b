"""Tokens that are asked for when they are needed: those of Globus and of other issuers end after hours or minutes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Final

from headrace.bus.light_httpx import httpx
from headrace.sdk.errors import TokenUnavailable

logger = logging.getLogger(__name__)

TokenSource = Callable[[], str]
"""Gives the token to use now, with or without `Bearer ` before it; called before each request, from any thread, so it
keeps a token as long as it is good, as the authorizers of globus_sdk do (`authorizer.get_authorization_header`)."""

_BEARER: Final = "bearer "


class AskedToken(httpx.Auth):
    """Puts the source's token into each request, and asks once more when the service does not take it."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """One try, and another where the source has a newer token by then. Raises `TokenUnavailable`."""
        token = self._token()
        request.headers["Authorization"] = f"Bearer {token}"
        answer = yield request
        # What is sent as a stream is gone.
        if answer.status_code != 401 or not isinstance(request.stream, httpx.ByteStream):
            return
        newer = self._token()
        if newer != token:
            request.headers["Authorization"] = f"Bearer {newer}"
            yield request

    def _token(self) -> str:
        return asked(self._source)


def asked(source: TokenSource) -> str:
    """The token of a source, without `Bearer `. Raises `TokenUnavailable`."""
    try:
        text = source()
    except Exception as error:
        # Whatever it is, it must reach whoever waits: it is somebody else's code. Its text may say anything.
        raise TokenUnavailable(f"the function that gives the token raised {type(error).__name__}") from error
    if not isinstance(text, str):
        raise TokenUnavailable(f"the function that gives the token gave a {type(text).__name__}, and not a text")
    token = text[len(_BEARER) :] if text[: len(_BEARER)].lower() == _BEARER else text
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenUnavailable("the function that gives the token gave none: one word of ASCII characters")
    return token
