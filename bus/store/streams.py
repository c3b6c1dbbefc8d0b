"""The streams, as data, and the one function that brings a server to them.

Durations are in seconds here and in nanoseconds on the wire. `TASKS` and `RESULTS` keep one message per subject and
refuse the second: publishing the same bundle or the same part twice has one effect, also after a restart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.bus.errors import BusError, StreamMissing
from headrace.bus.names import DEFAULT_BUS, bus_events, bus_news
from headrace.bus.nats.connection import Connection

logger = logging.getLogger(__name__)

DAY_S = 86_400.0
GIB = 1 << 30

_FIRST_WRITER_WINS: dict[str, Any] = {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How much the streams may hold. Ages in seconds, sizes in bytes."""

    result_age_s: float = 14 * DAY_S
    event_age_s: float = 7 * DAY_S
    log_age_s: float = 14 * DAY_S
    tasks_bytes: int = 16 * GIB
    results_bytes: int = 64 * GIB
    events_bytes: int = 8 * GIB
    logs_bytes: int = 4 * GIB
    objects_bytes: int = 64 * GIB
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream: its name, its subjects and what is special about it."""

    name: str
    subjects: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    at_creation: dict[str, Any] = field(default_factory=dict)
    """Options that the server takes only when it makes the stream."""

    def config(self, replicas: int) -> dict[str, Any]:
        """The server's form of it."""
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_consumers": 20_000,
            "num_replicas": replicas,
            **self.options,
        }


def _seconds(value: float) -> int:
    return int(value * 1e9)


def event_options(*, age_s: float, most_bytes: int) -> dict[str, Any]:
    """What is special about every stream that holds events."""
    return {
        "max_age": _seconds(age_s),
        "max_bytes": most_bytes,
        # The server takes no window that is longer than what is kept.
        "duplicate_window": _seconds(min(120.0, age_s)),
        "allow_atomic": True,
        "allow_direct": True,
    }


def streams(settings: StreamSettings) -> tuple[Stream, ...]:
    """Every stream of the product, but for the buckets of `headrace.bus.store.records`."""
    return (
        Stream(
            "TASKS",
            ("task.>",),
            {
                **_FIRST_WRITER_WINS,
                "retention": "workqueue",
                "max_bytes": settings.tasks_bytes,
                "allow_direct": True,
                "allow_atomic": True,
            },
        ),
        Stream(
            "RESULTS",
            ("result.>",),
            {
                **_FIRST_WRITER_WINS,
                "max_age": _seconds(settings.result_age_s),
                "max_bytes": settings.results_bytes,
                "allow_direct": True,
                "allow_atomic": True,
                "republish": {"src": "result.>", "dest": "stored.result.>"},
            },
        ),
        Stream(
            "PROGRESS",
            ("progress.>",),
            {
                **_FIRST_WRITER_WINS,
                "max_age": _seconds(settings.result_age_s),
                "max_bytes": 4 * GIB,
                "allow_direct": True,
                "republish": {"src": "progress.>", "dest": "stored.progress.>"},
            },
        ),
        Stream(
            "CONTROL",
            ("control.>",),
            {
                "max_msgs_per_subject": 1,
                "max_age": _seconds(settings.result_age_s),
                "max_bytes": GIB,
                "allow_direct": True,
            },
        ),
        Stream(
            "EVENTS",
            (bus_events(DEFAULT_BUS),),
            {
                **event_options(age_s=settings.event_age_s, most_bytes=settings.events_bytes),
                # Whoever waits for an event is woken, and reads it: the store, not this, says what there is.
                "republish": {"src": bus_events(DEFAULT_BUS), "dest": bus_news(DEFAULT_BUS), "headers_only": True},
            },
        ),
        Stream(
            "DELIVERIES",
            ("delivery.>",),
            # No limit: a server with scheduled messages only discards old ones, and a delivery must not vanish. What
            # bounds it is the disk, and a full disk refuses.
            {
                "retention": "workqueue",
                "max_bytes": -1,
                "allow_msg_schedules": True,
                "allow_direct": True,
                # Whoever looks after a queue is woken, and reads it: the store, not this, says what there is.
                "republish": {"src": "delivery.queued.>", "dest": "changed.delivery.queued.>", "headers_only": True},
                "allow_msg_ttl": True,
            },
        ),
        Stream(
            "DEADLETTERS",
            ("deadletter.>",),
            {**_FIRST_WRITER_WINS, "max_age": _seconds(90 * DAY_S), "max_bytes": 4 * GIB, "allow_direct": True},
        ),
        Stream(
            "OBJECTS",
            ("object.>",),
            {**_FIRST_WRITER_WINS, "max_bytes": settings.objects_bytes, "allow_direct": True},
        ),
        Stream(
            "LOGS",
            ("log.>",),
            {
                "max_age": _seconds(settings.log_age_s),
                "max_bytes": settings.logs_bytes,
                "allow_direct": True,
                "republish": {"src": "log.>", "dest": "stored.log.>"},
            },
            # What tasks print need not survive a power cut, and must not make results wait for the disk.
            at_creation={} if settings.replicas > 1 else {"persist_mode": "async"},
        ),
    )


async def ensure(connection: Connection, settings: StreamSettings) -> None:
    """Create what is missing and bring what is there to these settings. Safe to run from many replicas at once.

    Raises `BusError` when the server refuses, for instance for lack of disk.
    """
    for stream in streams(settings):
        await ensure_stream(connection, stream, replicas=settings.replicas)


async def ensure_stream(connection: Connection, stream: Stream, *, replicas: int = 1) -> None:
    """Create this stream, or bring it to these settings."""
    wanted = stream.config(replicas)
    try:
        found = (await connection.api(f"STREAM.INFO.{stream.name}"))["config"]
    except StreamMissing:
        await connection.api(f"STREAM.CREATE.{stream.name}", {**wanted, **stream.at_creation})
        logger.info("Created stream %s.", stream.name, extra={"action": "stream_created", "stream": stream.name})
        return
    if any(found.get(key) != value for key, value in wanted.items()):
        await connection.api(f"STREAM.UPDATE.{stream.name}", {**found, **wanted})


async def ensure_consumer(
    connection: Connection,
    stream: str,
    consumer: str,
    *,
    filter_subjects: tuple[str, ...],
    ack_wait_s: float,
    max_ack_pending: int,
    options: dict[str, Any] | None = None,
    action: Literal["", "create"] = "",
) -> dict[str, Any]:
    """Create a durable pull consumer, or (unless `action` is `create`) bring it to these settings; gives the server's
    account of it. It starts with the first message of the stream unless `options` (the server's names) say
    otherwise."""
    config: dict[str, Any] = {
        "durable_name": consumer,
        "name": consumer,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "ack_wait": _seconds(ack_wait_s),
        "max_ack_pending": max_ack_pending,
        "max_deliver": -1,
        "max_waiting": 512,
        "filter_subjects": list(filter_subjects),
        **(options or {}),
    }
    try:
        return await _create_consumer(connection, stream, consumer, config, action)
    except BusError as error:
        if "deliver policy" not in str(error):
            raise
        # It came back with a backup, and begins where it was then: that cannot be changed, and means the same.
        found = (await connection.api(f"CONSUMER.INFO.{stream}.{consumer}"))["config"]
        kept = {name: found[name] for name in ("deliver_policy", "opt_start_seq") if name in found}
        return await _create_consumer(connection, stream, consumer, {**config, **kept}, action)


async def _create_consumer(
    connection: Connection, stream: str, consumer: str, config: dict[str, Any], action: str
) -> dict[str, Any]:
    return await connection.api(
        f"CONSUMER.CREATE.{stream}.{consumer}", {"stream_name": stream, "config": config, "action": action}
    )


async def delete_consumer(connection: Connection, stream: str, consumer: str) -> None:
    """Remove a consumer; nothing happens when there is none."""
    try:
        await connection.api(f"CONSUMER.DELETE.{stream}.{consumer}")
    except StreamMissing:
        return


async def purge(connection: Connection, stream: str, subject: str, *, before: int | None = None) -> int:
    """Remove all messages under a subject (wildcards allowed), those before a sequence only if there is one; gives
    their number."""
    try:
        answer = await connection.api(
            f"STREAM.PURGE.{stream}", {"filter": subject, **({"seq": before} if before else {})}
        )
    except StreamMissing as error:
        raise BusError(f"there is no stream {stream!r} to purge") from error
    return int(answer.get("purged", 0))
