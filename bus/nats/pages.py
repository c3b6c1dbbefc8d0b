"""What the server gives in pages: messages under a pattern, subjects, consumers. Only for the service's account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection


async def messages(
    connection: Connection, stream: str, pattern: str, *, start: int = 1, batch: int
) -> AsyncIterator[list[StoredMessage]]:
    """What is stored under a pattern of subjects from a sequence on, in the order of storing, in pages of `batch` at
    most; none of them is empty. Raises `BusUnavailable` and `StreamMissing`."""
    pending = 1
    while pending:
        query = {"seq": start, "next_by_subj": pattern, "batch": batch}
        page, pending = await connection.read_many(stream, query)
        if not page:
            return
        start = page[-1].sequence + 1
        yield page


async def subjects(connection: Connection, stream: str, pattern: str) -> AsyncIterator[str]:
    """The subjects that fit a pattern and hold a message. Raises `BusUnavailable` and `StreamMissing`."""
    offset, total = 0, 1
    while offset < total:
        info = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": offset})
        page = info["state"].get("subjects") or {}
        for subject in page:
            yield subject
        if not page:
            return
        offset, total = offset + len(page), info.get("total", 0)


async def consumers(connection: Connection, stream: str) -> AsyncIterator[dict[str, Any]]:
    """What the server knows of each consumer of a stream. Raises `BusUnavailable` and `StreamMissing`."""
    offset, total = 0, 1
    while offset < total:
        answer = await connection.api(f"CONSUMER.LIST.{stream}", {"offset": offset})
        page = answer.get("consumers") or []
        for info in page:
            yield info
        if not page:
            return
        offset, total = offset + len(page), answer["total"]
