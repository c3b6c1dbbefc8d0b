"""Answers that may be kept, and asked for again by what they were (RFC 9110, 13; RFC 9111)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from headrace.action_provider.http import reply


def kept_reply(
    request: Request,
    body: object,
    *,
    for_everybody: bool,
    max_age_s: int = 60,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A JSON answer with an `ETag`; 304 without a body when `If-None-Match` names it.

    What is `for_everybody` may be kept by anybody for `max_age_s`; what is for this caller alone, by nobody without
    asking again.
    """
    response = reply(body, headers=headers)
    tag = f'"{hashlib.blake2b(bytes(response.body), digest_size=12).hexdigest()}"'
    if not for_everybody:
        response.headers["Vary"] = "Authorization"
    response.headers["Cache-Control"] = f"public, max-age={max_age_s}" if for_everybody else "private, no-cache"
    response.headers["ETag"] = tag
    if not _names(request.headers.getlist("if-none-match"), tag):
        return response
    kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    return Response(status_code=304, headers=kept)


def _names(fields: list[str], tag: str) -> bool:
    # Compared weakly: a proxy that compresses makes `W/"…"` of what we said.
    tags = [each.strip().removeprefix("W/") for field in fields for each in field.split(",")]
    return tag in tags or tags == ["*"]
