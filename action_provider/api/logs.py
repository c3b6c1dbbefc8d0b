"""What a task prints: as JSON, as text, and live as server-sent events."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.tasks import OneResult, find_task
from headrace.action_provider.errors import InvalidRequest, ServiceError, Unavailable
from headrace.action_provider.event_stream import KEEP_ALIVE, MEDIA_TYPE, EventStream, event
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.bus.errors import BusError
from headrace.bus.tasks.bundles import LogEnd, TaskResult
from headrace.bus.tasks.log_watch import LogWatch
from headrace.bus.tasks.logs import STREAMS, LogPiece, LogReader, StreamName
from headrace.bus.tasks.results import ResultWatch
from headrace.bus.tasks.task_views import TaskView
from headrace.schemas import Violation

logger = logging.getLogger(__name__)

_REST_S = 2.0
"""How long the rest of a log may come after the result, before it counts as cut."""
_MOST_LINES = 1_000_000


async def get_logs(call: Call) -> Response:
    """What a task of the caller's has printed so far; with the header `Accept: text/plain` as text, and with
    `text/event-stream` or `follow` as events that go on until the task has ended.

    Events are `log` (a chunk, with an id to go on from after a break: `Last-Event-ID`) and, at the end, `end` (the
    task's state).
    """
    chosen, accept, follow = _chosen(call), call.request.headers.get("accept", ""), call.query("follow")
    if follow not in (None, "true", "false"):
        raise _wrong("follow", "is true or false")
    view = await find_task(call)
    if follow == "true" or (follow is None and MEDIA_TYPE in accept):
        return _followed(call, view, chosen)
    async with _watch(call, view) as watch:
        pieces = await watch.read_all(_end(view.result), within_s=_REST_S)
    chunks = chosen.of(watch.reader, pieces, view.result)
    if "text/plain" in accept:
        return Response(_text(chunks), media_type="text/plain")
    documents = [_document(chunk) for chunk in chunks]
    return reply({"task_id": view.task_id, "state": view.state, "chunks": documents})


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece as it is shown: as text."""

    piece: LogPiece
    text: str

    @property
    def event_id(self) -> str:
        """Where it is in the log."""
        return f"{self.piece.sequence}.{self.piece.number}"


class Chosen:
    """The part of a log that was asked for, piece by piece. Bytes that are no UTF-8 are replaced."""

    def __init__(self, stream: StreamName | None, tail: int | None, after: tuple[int, int]) -> None:
        self._stream = stream
        self._tail = tail
        self._after = after
        self._decoders: dict[tuple[int, StreamName], codecs.IncrementalDecoder] = {}

    def of(self, reader: LogReader, pieces: Iterable[LogPiece], result: TaskResult | None) -> list[Chunk]:
        """The chunks of these pieces, and, once there is a result, of what is missing at the end."""
        ending = [] if result is None else _missing(reader, result)
        chunks = [self._chunk(piece) for piece in (*pieces, *ending) if self._stream in (None, piece.stream)]
        if result is not None:
            chunks += self._rests()
        chunks = [each for each in chunks if (each.piece.sequence, each.piece.number) > self._after]
        chunks = [each for each in chunks if each.text or each.piece.cut]
        tail, self._tail = self._tail, None
        return chunks if tail is None else _last_lines(chunks, tail)

    def _chunk(self, piece: LogPiece) -> Chunk:
        key = (piece.run, piece.stream)
        if piece.cut:
            self._decoders.pop(key, None)  # half of a character may be among what is missing
        decoder = self._decoders.get(key)
        if decoder is None:
            decoder = self._decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
        return Chunk(piece=piece, text=decoder.decode(piece.data))

    def _rests(self) -> list[Chunk]:
        rests = []
        for (run, stream), decoder in self._decoders.items():
            text = decoder.decode(b"", True)
            if text:
                rests.append(Chunk(piece=_nowhere(run, stream), text=text))
        return rests


def _chosen(call: Call) -> Chosen:
    stream, tail = call.query("stream"), call.query("tail")
    if stream is not None and stream not in STREAMS:
        raise _wrong("stream", "is stdout or stderr")
    if tail is not None and not (tail.isascii() and tail.isdigit() and int(tail) <= _MOST_LINES):
        raise _wrong("tail", f"is a number of lines, at most {_MOST_LINES}")
    after = call.request.headers.get("last-event-id", "")
    place = tuple(int(part) for part in after.split(".") if part.isascii() and part.isdigit() and len(part) < 20)
    return Chosen(
        None if stream is None else STREAMS[STREAMS.index(stream)],
        None if tail is None else int(tail),
        (place[0], place[1]) if len(place) == 2 else (0, -1),
    )


def _wrong(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{name} {problem}", violations=(Violation(pointer=f"?{name}", problem=problem),))


def _watch(call: Call, view: TaskView) -> LogWatch:
    address, service = view.address, call.service
    key = service.keys.result_keys(address.endpoint, address.principal)
    return LogWatch(service.connection, address, view.index, key)


def _followed(call: Call, view: TaskView, chosen: Chosen) -> Response:
    places = call.service.followers
    if not places.take():
        most = call.service.settings.most_followers
        raise Unavailable(f"{most} logs are being followed, as many as this service allows at a time", retry_after_s=5)
    return EventStream(_events(call, view, chosen), on_end=places.give_back)


async def _events(call: Call, view: TaskView, chosen: Chosen) -> AsyncGenerator[bytes, None]:
    try:
        async with contextlib.aclosing(_told(call, view, chosen)) as told:
            async for each in told:
                yield each
    except (BusError, ServiceError) as error:
        # The answer has begun, so nothing can be said. The reader comes back, and is told then.
        logger.info("The log of %s cannot be followed any more: %s", view.task_id, error)


async def _told(call: Call, view: TaskView, chosen: Chosen) -> AsyncGenerator[bytes, None]:
    address, service = view.address, call.service
    collector = OneResult(address, service.keys.result_keys(address.endpoint, address.principal))
    collector.wanted = view.index
    async with contextlib.AsyncExitStack() as stack:
        results = await stack.enter_async_context(ResultWatch(service.connection, [collector]))
        log = await stack.enter_async_context(_watch(call, view))
        await results.catch_up()
        ended = asyncio.create_task(_until_ended(results), name="wait for the result")
        stack.callback(ended.cancel)
        stopping = asyncio.create_task(service.stopping.wait(), name="the service stops")
        stack.callback(stopping.cancel)
        while not ended.done():
            for chunk in chosen.of(log.reader, await log.read(), None):
                yield event("log", _document(chunk), chunk.event_id)
            news = asyncio.create_task(log.news.wait(), name="wait for more of a log")
            done, _ = await asyncio.wait(
                (news, ended, stopping),
                timeout=service.settings.keep_alive_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            news.cancel()
            if stopping.done():
                return  # the reader comes back, to another service, with the id of the last event
            if not done:
                yield KEEP_ALIVE
                # What nobody has told: output and results that were missed, and tasks that waited too long.
                await find_task(call)
                await results.catch_up()
                log.doubt()
        ended.result()
        result = collector.results[view.index]
        pieces = await log.read_all(_end(result), within_s=_REST_S)
        for chunk in chosen.of(log.reader, pieces, result):
            yield event("log", _document(chunk), chunk.event_id)
        yield event("end", {"state": result.state})


async def _until_ended(results: ResultWatch) -> None:
    while not await results.until_complete(3600.0):
        pass


def _end(result: TaskResult | None) -> LogEnd | None:
    return None if result is None else result.log_end


def _missing(reader: LogReader, result: TaskResult) -> list[LogPiece]:
    """What was printed at the end of the last run and is not there."""
    if result.log_end is None:
        return []
    missing = zip(STREAMS, reader.missing(result.log_end), strict=True)
    return [
        replace(_nowhere(result.log_end.run, stream), cut=count, attempt=result.attempts, worker=result.worker)
        for stream, count in missing
        if count
    ]


def _nowhere(run: int, stream: StreamName) -> LogPiece:
    """A piece without bytes, behind all others."""
    return LogPiece(sequence=1 << 62, number=0, stream=stream, run=run, attempt=0, worker="", time=0.0, data=b"", cut=0)


def _last_lines(chunks: list[Chunk], lines: int) -> list[Chunk]:
    """The last lines of these chunks together; a line that has no end yet is one."""
    kept: list[Chunk] = []
    for chunk in reversed(chunks):
        if lines <= 0:
            break
        parts = chunk.text.splitlines(keepends=True)
        own = parts[-lines:]
        trimmed = Chunk(piece=replace(chunk.piece, cut=0), text="".join(own))
        kept.append(chunk if len(own) == len(parts) else trimmed)
        lines -= len(own)
    return kept[::-1]


def _text(chunks: Iterable[Chunk]) -> str:
    return "".join(
        (f"\n[headrace: {chunk.piece.cut} bytes cut]\n" if chunk.piece.cut else "") + chunk.text for chunk in chunks
    )


def _document(chunk: Chunk) -> dict[str, Any]:
    piece = chunk.piece
    document: dict[str, Any] = {"stream": piece.stream, "text": chunk.text}
    if piece.cut:
        document["cut_bytes"] = piece.cut
    if piece.attempt:
        document["attempt"] = piece.attempt
    if piece.worker:
        document["worker"] = piece.worker
    if piece.time > 0:
        document["time"] = timestamp(piece.time)
    return document


ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/tasks/{task_id}/logs",
        handler=get_logs,
        summary="Read, or follow, what a task prints",
        response_schema="task-logs",
        other_types=("text/plain", MEDIA_TYPE),
        query=(
            Query(
                name="follow",
                description="Answer with events (`text/event-stream`) until the task has ended.",
                schema={"type": "boolean", "default": False},
            ),
            Query(
                name="stream",
                description="Only this one.",
                schema={"type": "string", "enum": list(STREAMS)},
            ),
            Query(
                name="tail",
                description="Only so many lines of what there is when the answer begins, the last ones.",
                schema={"type": "integer", "minimum": 0, "maximum": _MOST_LINES},
            ),
        ),
    ),
)
