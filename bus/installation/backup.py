"""Copies of all streams of a running installation, and their way back into an empty one.

A copy of one stream is the server's own snapshot; meanwhile the stream goes on. Between streams there is no common
moment, so their order decides what a copy means: what moves from one stream to another is read at its origin first.
Then it may be in both places, never in neither; and being in both is what happens after a crash too: writes decide.

    positions      how far events and results had been worked through: from there on they are looked at again
    subscriptions  each begins behind an event that is in the copy of the events
    actions        an action in the copy has its bundles in the copy, or had ended
    replays        one goes on behind what is in the copies that follow, under the same ids
    EVENTS         of every bus: an event that is not acked is matched again, the ids of its bundles follow from it
    DELIVERIES     a waiting attempt becomes a bundle
    TASKS          a bundle is removed when its results are stored; what is copied with both is not run again
    CONTROL        cancellations of what is in the copy
    PROGRESS       marks of what has started and must not start twice
    RESULTS        the results of all bundles that have left TASKS meanwhile
    the rest       records, such as the functions that the copied bundles name, dead letters, logs, objects
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.errors import BackupFailed, BusError, BusUnavailable
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message

_ORDER: Final = (
    "KV_subscriptions",
    "KV_actions",
    "KV_replays",
    "EVENTS",
    "DELIVERIES",
    "TASKS",
    "CONTROL",
    "PROGRESS",
    "RESULTS",
)
_CHUNK_BYTES = 512 * 1024
_WINDOW_BYTES = 8 * 1024 * 1024
_SILENCE_S = 30.0
_LONG_S = 600.0
_PAGE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCopy:
    """What a copy of a stream is of: all that is needed beside its chunks. JSON documents of the server."""

    name: str
    config: dict[str, Any]
    state: dict[str, Any]
    consumers: tuple[dict[str, Any], ...]
    """Configurations of its durable consumers, which begin where they are to go on."""


async def stream_names(connection: Connection) -> list[str]:
    """All streams of the installation, in the order in which they are to be copied. Raises `BusUnavailable`."""
    names: list[str] = []
    while True:
        answer = await connection.api("STREAM.NAMES", {"offset": len(names)})
        names += answer.get("streams") or []
        if len(names) >= answer["total"] or not answer.get("streams"):
            break
    # Each bus of somebody's has a stream like that of the bus for everybody.
    events = sorted(name for name in names if name.startswith("EVENTS_"))
    order = [each for name in _ORDER for each in ([name, *events] if name == "EVENTS" else [name])]
    first = [name for name in order if name in names]
    return first + sorted(set(names) - set(first))


async def positions(connection: Connection, streams: list[str]) -> dict[str, tuple[dict[str, Any], ...]]:
    """The consumers of each stream, as they are to be made again. Asked before anything is copied.

    Raises `BusUnavailable`.
    """
    return {stream: tuple([each async for each in _consumers(connection, stream)]) for stream in streams}


async def copy_stream(
    connection: Connection, name: str, consumers: tuple[dict[str, Any], ...], write: Callable[[bytes], None]
) -> StreamCopy:
    """Give the chunks of a stream's snapshot to `write`. Raises `BackupFailed` and `BusUnavailable`."""
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    inbox = await connection.subscribe_inbox(f"copy-{name}", arrived.put_nowait)
    try:
        await connection.flush()
        answer = await connection.api(
            f"STREAM.SNAPSHOT.{name}",
            {
                "deliver_subject": inbox.subject,
                # Their state could be ahead of the messages that are copied, and skip what comes after a restore.
                "no_consumers": True,
                "chunk_size": _CHUNK_BYTES,
                "window_size": _WINDOW_BYTES,
            },
            timeout_s=_SILENCE_S,
        )
        await _receive(connection, name, arrived, write)
    finally:
        await inbox.cancel()
    return StreamCopy(name=name, config=answer["config"], state=answer["state"], consumers=consumers)


async def put_back(connection: Connection, copy: StreamCopy, chunks: Iterator[bytes]) -> None:
    """Make a stream, which must not exist, from its copy. Raises `BackupFailed` and `BusUnavailable`."""
    try:
        answer = await connection.api(f"STREAM.RESTORE.{copy.name}", {"config": copy.config, "state": copy.state})
        for chunk in chunks:
            refusal = await connection.request(answer["deliver_subject"], chunk, timeout_s=_SILENCE_S)
            if refusal.data:
                raise BackupFailed(f"the NATS server does not take back {copy.name}: {refusal.data.decode()[:500]}")
        # An empty message is the end; the answer comes when the stream is there.
        end = await connection.request(answer["deliver_subject"], b"", timeout_s=_LONG_S)
        if b'"error"' in end.data:
            raise BackupFailed(f"the NATS server cannot make {copy.name} again: {end.data.decode()[:500]}")
        for config in copy.consumers:
            await connection.api(
                f"CONSUMER.CREATE.{copy.name}.{config['durable_name']}",
                {"stream_name": copy.name, "config": config, "action": ""},
            )
    except BusUnavailable:
        raise
    except BusError as error:
        raise BackupFailed(f"{copy.name} cannot be put back: {error}") from error


async def _receive(
    connection: Connection, name: str, arrived: asyncio.Queue[Message], write: Callable[[bytes], None]
) -> None:
    count = 0
    while True:
        try:
            async with asyncio.timeout(_SILENCE_S):
                message = await arrived.get()
        except TimeoutError:
            raise BackupFailed(f"copying {name}: nothing more came for {_SILENCE_S:g} s") from None
        if not message.data:
            if message.status not in (0, 204):
                problem = message.headers.get("Description", "")
                raise BackupFailed(f"copying {name}: the NATS server gave up ({message.status} {problem})")
            return
        count += 1
        if message.reply and message.reply.rpartition(".")[2] != str(count):
            raise BackupFailed(f"copying {name}: a part of it was lost on the way; try again")
        write(message.data)
        if message.reply:
            await connection.publish(message.reply)


async def _consumers(connection: Connection, stream: str) -> AsyncIterator[dict[str, Any]]:
    async for info in pages.consumers(connection, stream):
        config = dict(info["config"])
        if not config.get("durable_name"):
            continue
        if config["deliver_policy"] != "all" or info["ack_floor"]["stream_seq"]:
            config |= _from_floor(stream, info["ack_floor"]["stream_seq"])
        yield config


def _from_floor(stream: str, floor: int) -> dict[str, Any]:
    if stream in ("TASKS", "DELIVERIES"):
        return {}  # a work queue holds nothing that was acked, and a consumer of it begins at its beginning
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
