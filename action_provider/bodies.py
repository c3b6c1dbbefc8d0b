"""Reading request bodies: counted while they arrive, and read as strict JSON."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from starlette.requests import ClientDisconnect, Request

from headrace.action_provider.errors import BodyTooLarge, MalformedRequest, RequestTimeout

_THREAD_BYTES = 256_000


async def read_body(request: Request, *, limit: int, timeout_s: float) -> bytes:
    """The body, of which never more than `limit` bytes are kept.

    Raises `BodyTooLarge`, before reading anything when the head says so already, `RequestTimeout` and
    `MalformedRequest`.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise MalformedRequest("the connection ended before the body did") from None
    return b"".join(chunks)


async def read_json(request: Request, *, limit: int, timeout_s: float) -> Any:
    """The body as JSON; None when there is no body. Raises what `read_body` and `parse_json` raise."""
    body = await read_body(request, limit=limit, timeout_s=timeout_s)
    if not body.strip():
        return None
    if len(body) > _THREAD_BYTES:
        return await asyncio.to_thread(parse_json, body)
    return parse_json(body)


def parse_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN or infinities, no name twice in one object, no lone surrogates.

    Raises `MalformedRequest` with the position.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the body is not UTF-8: byte {error.start} cannot be read") from None
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise MalformedRequest(f"the body is not JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise MalformedRequest("the body is nested too deeply") from None
    _refuse_surrogates(body, document)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MalformedRequest(f"the body names {name[:100]!r} twice in one object; only one can be meant")
            seen.add(name)
    return members


def _no_constant(name: str) -> Any:
    raise MalformedRequest(f"the body is not JSON: {name} is not a JSON number; use null or a string")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise MalformedRequest(f"the number {digits[:40]} is too large for a 64-bit float")
    return number


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise MalformedRequest(f"an integer of {len(digits)} digits is too long") from None


def _refuse_surrogates(body: bytes, document: Any) -> None:
    # Half of a surrogate pair can be written in JSON, but is no character and could never be sent on.
    if b"\\ud" not in body and b"\\uD" not in body:
        return
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MalformedRequest("a text of the body holds half of a surrogate pair (\\ud800 to \\udfff)") from None


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than the limit of {limit} bytes ({limit / 1e6:g} MB)")
