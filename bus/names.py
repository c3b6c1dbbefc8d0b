"""Subjects: every name on the bus is made, and taken apart, here and nowhere else.

Tokens of subjects hold no `.`, `*`, `>`, white space or control characters. `token` makes any text safe, one to one:
characters outside `[A-Za-z0-9_-]` become `=XX` for each byte of their UTF-8 form.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from headrace.bus.errors import DecodeError

DEFAULT_POOL = "default"
SHARED_LOG = "all"

NEXT_SIGN_HEADER = "Headrace-Next-Sign"
"""Of the answer to a sign of life: how many seconds later the next one is expected."""

SINKS: Final = UUID("5f0e1c9a-7a52-8f3e-9d10-73696e6b7300")
"""Stands for the endpoint of what no endpoint runs: the place of deliveries to sinks in ids and subjects."""
NO_FUNCTION: Final = UUID(int=0)
"""Stands for their function."""

_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPE = re.compile(rb"=([0-9A-F]{2})")


@functools.lru_cache(maxsize=4096)
def token(text: str) -> str:
    """Text as one safe subject token. Raises `ValueError` for the empty text, which no token can hold."""
    if not text:
        raise ValueError("an empty text cannot be a subject token")
    return _UNSAFE.sub(lambda m: b"=%02X" % m[0][0], text.encode()).decode("ascii")


def text(safe: str) -> str:
    """The text that `token` made safe."""
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), safe.encode()).decode("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where one bundle lives: whose it is, where it runs, and its id. `principal` is a plain URN, not a token.

    `group` and `bundle` are UUIDs; `bundle` is the id of the bundle's task with index 0.
    """

    endpoint: UUID
    pool: str
    principal: str
    group: UUID
    bundle: UUID

    @property
    def _where(self) -> str:
        return f"{token(self.principal)}.{self.group.hex}.{self.bundle.hex}"

    @property
    def task_subject(self) -> str:
        """Where the bundle is queued."""
        return f"task.{self.endpoint.hex}.{token(self.pool)}.{self._where}"

    @property
    def control_subject(self) -> str:
        """Where cancellations of the bundle are stored."""
        return f"control.{self.endpoint.hex}.{token(self.pool)}.{self._where}"

    def result_subject(self, part: int) -> str:
        """Where part number `part` (from 0) of the bundle's results is stored."""
        return f"result.{self.endpoint.hex}.{self._where}.{part}"

    def started_subject(self, index: int) -> str:
        """Where the mark is stored that a task of the bundle has started; it can be stored once."""
        return f"progress.{self.endpoint.hex}.{self._where}.{index}"

    def log_subject(self, index: int | None) -> str:
        """Where what a task of the bundle prints is stored; None is the place that short pieces of several share."""
        return f"log.{self.endpoint.hex}.{self._where}.{SHARED_LOG if index is None else index}"

    @classmethod
    def of_task_subject(cls, subject: str) -> Address:
        """Read the subject of a task or a control message. Raises `DecodeError`."""
        parts = subject.split(".")
        try:
            kind, endpoint, pool, principal, group, bundle = parts
            if kind not in ("task", "control"):
                raise ValueError(kind)
            return cls(
                endpoint=UUID(endpoint),
                pool=text(pool),
                principal=text(principal),
                group=UUID(group),
                bundle=UUID(bundle),
            )
        except ValueError as error:
            raise DecodeError(f"not a subject of a bundle: {subject!r}", raw=subject.encode()) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultAddress:
    """The subject of one result part, taken apart."""

    endpoint: UUID
    principal: str
    group: UUID
    bundle: UUID
    part: int

    @classmethod
    def of_subject(cls, subject: str) -> ResultAddress:
        """Read `result.…` or `stored.result.…`. Raises `DecodeError`."""
        try:
            kind, endpoint, principal, group, bundle, part = subject.removeprefix("stored.").split(".")
            if kind != "result":
                raise ValueError(kind)
            return cls(
                endpoint=UUID(endpoint),
                principal=text(principal),
                group=UUID(group),
                bundle=UUID(bundle),
                part=int(part),
            )
        except ValueError as error:
            raise DecodeError(f"not a subject of a result: {subject!r}", raw=subject.encode()) from error

    @property
    def subject(self) -> str:
        """Where the part is stored."""
        return f"result.{self.endpoint.hex}.{token(self.principal)}.{self.group.hex}.{self.bundle.hex}.{self.part}"


def part_of_result(subject: str) -> int:
    """Which part of its bundle's results is stored under `result.…`. Raises `DecodeError`."""
    part = subject.rpartition(".")[2]
    if not subject.startswith("result.") or subject.count(".") != 5 or not part.isdecimal():
        raise DecodeError(f"not a subject of a result: {subject!r}", raw=subject.encode())
    return int(part)


def stored_results(endpoint: UUID, principal: str, group: UUID) -> str:
    """The subject on which the stored results of one group at one endpoint are republished."""
    return f"stored.result.{endpoint.hex}.{token(principal)}.{group.hex}.>"


def stored_results_anywhere(principal: str, group: UUID) -> str:
    """The subject on which the stored results of one group are republished, at whichever endpoint it runs."""
    return f"stored.result.*.{token(principal)}.{group.hex}.>"


def bundle_results(endpoint: UUID, principal: str, group: UUID, bundle: UUID) -> str:
    """All parts of a bundle's results."""
    return f"result.{endpoint.hex}.{token(principal)}.{group.hex}.{bundle.hex}.*"


def started_marks(endpoint: UUID, principal: str, group: UUID) -> str:
    """The subjects of all marks of started tasks of one group at one endpoint."""
    return f"progress.{endpoint.hex}.{token(principal)}.{group.hex}.>"


def pool_controls(endpoint: UUID, pool: str) -> str:
    """The subjects of all cancellations for one pool."""
    return f"control.{endpoint.hex}.{token(pool)}.>"


def lane_news(endpoint: UUID, pool: str) -> str:
    """The subject on which a pool is told of a new lane; one of those that `pool_controls` covers."""
    return f"control.{endpoint.hex}.{token(pool)}.lanes"


def peer_questions(endpoint: UUID, pool: str) -> str:
    """The subject on which the processes of a pool, on several machines, ask each other; core NATS alone."""
    return f"peers.{endpoint.hex}.{token(pool)}.all"


def peer_answers(endpoint: UUID, pool: str, process: bytes) -> str:
    """The subject on which one of these processes hears answers."""
    return f"peers.{endpoint.hex}.{token(pool)}.{process.hex()}"


def peers_of(endpoint: UUID, pool: str) -> str:
    """All subjects of these."""
    return f"peers.{endpoint.hex}.{token(pool)}.>"


def pool_key(endpoint: UUID, pool: str) -> str:
    """The key of a pool's record."""
    return f"{endpoint.hex}.{token(pool)}"


def lane_key(endpoint: UUID, pool: str, principal: str) -> str:
    """The key of a lane's record."""
    return f"{endpoint.hex}.{token(pool)}.{token(principal)}"


def lane_of(subjects: str) -> tuple[UUID, str, str]:
    """Endpoint, pool and principal of what `lane_tasks` made. Raises `DecodeError`."""
    try:
        kind, endpoint, pool, principal, rest = subjects.split(".")
        if (kind, rest) != ("task", ">"):
            raise ValueError(subjects)
        return UUID(endpoint), text(pool), text(principal)
    except ValueError as error:
        raise DecodeError(f"not the subjects of a lane: {subjects!r}", raw=subjects.encode()) from error


def lane_tasks(endpoint: UUID, pool: str, principal: str) -> str:
    """All bundles of a principal for a pool."""
    return f"task.{lane_key(endpoint, pool, principal)}.>"


DEFAULT_BUS = "default"
"""The bus that is everybody's."""


def event_stream(bus: str) -> str:
    """The stream that holds the events of a bus."""
    return "EVENTS" if bus == DEFAULT_BUS else f"EVENTS_{token(bus)}"


def event_subject(bus: str, event_type: str) -> str:
    """Where an event of this CloudEvents type is stored; each dotted part of the type is a token."""
    return f"event.{token(bus)}." + ".".join(token(part) if part else "=" for part in event_type.split("."))


def type_subject(bus: str, prefix: str) -> str:
    """All events of a bus whose types are below this one: `org.example` has `org.example.month` below it."""
    return f"{event_subject(bus, prefix)}.>"


def bus_events(bus: str) -> str:
    """All events of a bus."""
    return f"event.{token(bus)}.>"


def publishing_subject(bus: str, credential: str) -> str:
    """Where whoever holds this credential publishes events to a bus over NATS."""
    return f"publish.{token(bus)}.{token(credential)}"


ALL_PUBLISHING = "publish.*.*"


def bus_news(bus: str) -> str:
    """Where it is told that a bus has another event."""
    return f"changed.{bus_events(bus)}"


def matcher_consumer(bus: str) -> str:
    """The durable consumer through which the dispatchers take the events of a bus."""
    return f"matcher-{token(bus)}".replace("=", "_")


def delivery_later_subject(subscription: UUID, bundle: UUID, due_ms: int) -> str:
    """Where a delivery's next attempt, whose bundle this is, waits for its time (unix milliseconds).

    The time is part of it because the server, once it has delivered a scheduled message, removes all that is then
    stored under the same subject: an attempt that is put off again at once would vanish.
    """
    return f"delivery.later.{subscription.hex}.{bundle.hex}.{due_ms}"


def delivery_due_subject(subscription: UUID, bundle: UUID) -> str:
    """Where it is put when its time has come."""
    return f"delivery.due.{subscription.hex}.{bundle.hex}"


def delivery_queued_subject(subscription: UUID, bundle: UUID) -> str:
    """Where a delivery of a subscription with flow control lies until it is done; the bundle is its first one."""
    return f"delivery.queued.{subscription.hex}.{bundle.hex}.waiting"


def delivery_done_subject(subscription: UUID, bundle: UUID) -> str:
    """Where it is noted for a while that it is done, so that it is not queued again."""
    return f"delivery.queued.{subscription.hex}.{bundle.hex}.done"


def delivery_queued_subjects(subscription: UUID, bundle: UUID) -> str:
    """Both of these."""
    return f"delivery.queued.{subscription.hex}.{bundle.hex}.*"


def queued_of(subscription: UUID) -> str:
    """All that is queued of a subscription with flow control."""
    return f"delivery.queued.{subscription.hex}.*.waiting"


def queued_news(subscription: UUID) -> str:
    """Where it is told that another one is queued."""
    return f"changed.{queued_of(subscription)}"


def delivery_plan_subject(subscription: UUID, plan: str) -> str:
    """Where it is stored which queued deliveries go together, and how often they were tried."""
    return f"delivery.plan.{subscription.hex}.{plan}"


def plans_of(subscription: UUID) -> str:
    """All plans of a subscription with flow control."""
    return f"delivery.plan.{subscription.hex}.*"


def delivery_sink_subject(subscription: UUID, bundle: UUID) -> str:
    """Where an attempt waits for being sent to its subscription's sink."""
    return f"delivery.sink.{subscription.hex}.{bundle.hex}"


def sink_deliveries(subscription: UUID) -> str:
    """All attempts that wait for being sent to a subscription's sink."""
    return f"delivery.sink.{subscription.hex}.*"


def sink_consumer(subscription: UUID) -> str:
    """The durable consumer through which the dispatchers take them."""
    return f"sink-{subscription.hex}"


def deliveries_of(subscription: UUID) -> str:
    """All that waits for a subscription."""
    return f"delivery.*.{subscription.hex}.>"


ALL_DUE_DELIVERIES = "delivery.due.>"


def dead_letter_subject(owner: str, subscription: UUID | None, delivery: UUID) -> str:
    """Where the dead letter of a delivery is stored, of whichever subscription if none is named."""
    return f"deadletter.{token(owner)}.{subscription.hex if subscription else '*'}.{delivery.hex}"


def dead_letters_of(owner: str, subscription: UUID | None = None) -> str:
    """The dead letters of an owner, or of one of their subscriptions."""
    return f"deadletter.{token(owner)}.{subscription.hex if subscription else '*'}.*"


def redrive_subject(dead_letter: str) -> str:
    """Where it is noted that the dead letter under this subject was taken up again."""
    return f"{dead_letter}.redriven"


def redriven_subject(redrive: str) -> str:
    """The subject of the dead letter that `redrive_subject` was made of."""
    return redrive.removesuffix(".redriven")


def object_chunk(upload: str, number: int) -> str:
    """Where chunk `number` (from 0) of an upload of a large payload is stored; `upload` is the hex of a UUID."""
    return f"object.{upload}.{number}"


def object_chunks(upload: str) -> str:
    """All chunks of an upload."""
    return f"object.{upload}.*"


ALL_OBJECT_CHUNKS = "object.>"


def group_results(group: UUID) -> str:
    """The stored results of a group, whoever's they are."""
    return f"result.*.*.{group.hex}.>"
