"""One small GET, for `headrace up` to see whether its parts answer, without loading an HTTP client."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit


async def get_json(url: str, *, token: str | None = None, timeout_s: float = 2.0) -> dict[str, Any] | None:
    """The object that answers with status 200, or None for whatever else happens."""
    try:
        async with asyncio.timeout(timeout_s):
            status, body = await _get(url, token)
        document = json.loads(body) if status == 200 else None
    except (OSError, ValueError, IndexError):
        return None
    return document if isinstance(document, dict) else None


async def _get(url: str, token: str | None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        # HTTP/1.0: the answer is whole, in one piece, when the connection ends.
        lines = [
            f"GET {path} HTTP/1.0",
            f"Host: {parts.netloc}",
            *([f"Authorization: Bearer {token}"] if token else []),
        ]
        writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split(None, 2)[1]), body
