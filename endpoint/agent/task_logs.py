"""Stores what tasks print, while they run: quickly, within bounds, and in nobody's way.

A result never waits for a log. What cannot be stored (the bus is away for long, or full) is dropped, which shows in the
log as a cut: chunks say at which byte they begin, and the result how many there were.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Final
from uuid import UUID

from headrace.bus.errors import BusError
from headrace.bus.ids import split_task_id
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.logs import LogChunk, encode_log
from headrace.endpoint.agent.held import Held
from headrace.endpoint.engines.engine import Output

logger = logging.getLogger(__name__)

MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
"""How much may wait for the bus; what comes on top of it is dropped."""

_MESSAGE_BYTES = 128 * 1024
_SHARED_BYTES = 8 * 1024
_CHUNK_HEAD = 96
_STORE_S = 30.0
_TELL_EVERY_S = 60.0


class TaskLogs:
    """The logs of one pool's tasks. `held` are the bundles in its hands, which say where a log belongs."""

    def __init__(self, connection: Connection, *, most_waiting_bytes: int = MOST_WAITING_BYTES) -> None:
        self.held: Mapping[UUID, Held] = {}
        self._connection = connection
        self._most_waiting_bytes = most_waiting_bytes
        self._waiting: dict[UUID, list[LogChunk]] = {}
        self._waiting_bytes = 0
        self._flush_is_due = False
        self._stores: set[asyncio.Task[None]] = set()
        self._told_at = float("-inf")

    def add(self, output: Output) -> None:
        """Take what a call printed. It is under way before anything that is stored after the next `flush`."""
        bundle, index = split_task_id(output.key)
        if bundle not in self.held:
            return  # somebody else has stored its result, and nobody asks for more
        if self._waiting_bytes + len(output.data) > self._most_waiting_bytes:
            self._tell("more was printed than the bus takes")
            return
        self._waiting_bytes += len(output.data)
        chunk = LogChunk(
            index,
            output.stream,
            output.run,
            output.attempt,
            output.offset,
            output.time,
            output.data,
            output.worker,
        )
        self._waiting.setdefault(bundle, []).append(chunk)
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send what waits."""
        self._flush_is_due = False
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for bundle, chunks in waiting.items():
            held = self.held.get(bundle)
            size = sum(len(chunk.data) for chunk in chunks)
            if held is None:
                self._waiting_bytes -= size
                continue
            for index, message in _messages(chunks):
                self._store(held.address.log_subject(index), message, held.bundle.result_key)

    async def drain(self, timeout_s: float) -> None:
        """Wait until everything is stored, or the time is over."""
        self.flush()
        if self._stores:
            await asyncio.wait(self._stores, timeout=timeout_s)
        if self._stores:
            for task in self._stores:
                task.cancel()
            await asyncio.wait(self._stores)

    def _store(self, subject: str, chunks: list[LogChunk], key: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._stored(subject, chunks, key), name="store log")
        self._stores.add(task)
        task.add_done_callback(self._stores.discard)

    async def _stored(self, subject: str, chunks: list[LogChunk], key: bytes) -> None:
        try:
            message = encode_log(chunks, subject=subject, key=key)
            await self._connection.store(subject, message, timeout_s=_STORE_S)
        except BusError as error:
            self._tell(str(error))
        finally:
            self._waiting_bytes -= sum(len(chunk.data) for chunk in chunks)

    def _tell(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            logger.warning("What tasks print is lost in part: %s.", reason, extra={"action": "log_dropped"})


def _messages(chunks: list[LogChunk]) -> Iterator[tuple[int | None, list[LogChunk]]]:
    """The chunks of one bundle in messages: a task that prints much has its own, the others share."""
    by_task: dict[int, list[LogChunk]] = {}
    for chunk in chunks:
        by_task.setdefault(chunk.index, []).append(chunk)
    shared: list[LogChunk] = []
    for index, own in by_task.items():
        if len(by_task) > 1 and sum(len(chunk.data) for chunk in own) <= _SHARED_BYTES:
            shared += own
        else:
            yield from ((index, message) for message in _cut(own))
    yield from ((None, message) for message in _cut(shared))


def _cut(chunks: list[LogChunk]) -> Iterator[list[LogChunk]]:
    """Chunks in messages that are small enough for any bus."""
    message: list[LogChunk] = []
    size = 0
    for chunk in chunks:
        for piece in _split(chunk):
            cost = len(piece.data) + _CHUNK_HEAD
            if message and size + cost > _MESSAGE_BYTES:
                yield message
                message, size = [], 0
            message.append(piece)
            size += cost
    if message:
        yield message


def _split(chunk: LogChunk) -> Iterator[LogChunk]:
    if len(chunk.data) <= _MESSAGE_BYTES:
        yield chunk
        return
    for start in range(0, len(chunk.data), _MESSAGE_BYTES):
        yield LogChunk(
            chunk.index,
            chunk.stream,
            chunk.run,
            chunk.attempt,
            chunk.offset + start,
            chunk.time,
            chunk.data[start : start + _MESSAGE_BYTES],
            chunk.worker,
        )
