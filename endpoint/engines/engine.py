"""The seam between the agent, which has calls, and an engine, which runs them.

The engine *pulls*: whenever a worker has room it asks its source for one call at a time. The source decides whose turn
it is (fair share), and hands out nothing that no worker has room for, so nearly everything stays where it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

import msgspec

from headrace.bus.functions.code import FunctionCode
from headrace.bus.tasks.bundles import LogEnd, TaskOptions

FinalState = Literal["succeeded", "failed", "cancelled", "expired"]


# Structs, where others are dataclasses: one of each is made for every task, in a tenth of the time.
class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call to run. `key` is the task's id; `arguments` is encoded as `encoding` says (`bus.data.encodings`)."""

    key: UUID
    function: UUID
    encoding: int
    arguments: bytes
    options: TaskOptions
    code: FunctionCode


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended. `value` is an encoded value, or an encoded `Failure` unless it succeeded.

    Times are unix seconds, 0 when it never started; `attempts` counts the starts; `worker` is `host/pid`.
    """

    key: UUID
    state: FinalState
    encoding: int
    value: bytes
    started_at: float = 0.0
    ended_at: float = 0.0
    attempts: int = 1
    worker: str = ""
    log_end: LogEnd | None = None
    """How much its last run printed, if anything, and if that was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Some bytes that a call printed; the fields are those of `headrace.bus.tasks.logs.LogChunk`."""

    key: UUID
    stream: int
    run: int
    attempt: int
    offset: int
    time: float
    data: bytes
    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy an engine is: workers that are up, those of them that run a call, and calls that wait inside."""

    workers: int
    busy: int
    queued: int


class Source(Protocol):
    """Where an engine gets its calls."""

    def next_call(self) -> Call | None:
        """The next call to run, None if there is none now. Never blocks, and does not call the engine back."""


OutcomesCallback = Callable[[list[Outcome]], None]
"""Takes outcomes, many at a time. Every call that was handed out has exactly one, unless it was given back."""


OutputCallback = Callable[[Output], None]
"""Takes what calls print, in order, and what one printed before its outcome. Must not block."""


class Engine(Protocol):
    """What runs calls."""

    async def start(self) -> None:
        """Start the workers; calls are pulled as soon as one is up."""

    def wake(self) -> None:
        """Say that the source may have calls again. Cheap, and safe to say too often."""

    def cancel(self, keys: Iterable[UUID], *, force: bool = False) -> None:
        """Cancel those of these calls that have not started; with `force` also those that run.

        A call that has its outcome, or was never handed out, is not touched.
        """

    def take_back(self, keys: Iterable[UUID]) -> list[UUID]:
        """Give back those of these calls that were never started; their keys. They belong to the source again."""

    async def stop(self, *, grace_s: float) -> list[UUID]:
        """Pull nothing more, let running calls end within the grace, then kill.

        Returns the keys of the calls that have no outcome: they belong to the source again.
        """

    def load(self) -> Load:
        """How busy it is."""

    def running(self) -> list[UUID]:
        """The calls that run at this moment."""

    def pids(self) -> list[int]:
        """The processes that run calls, if it knows them; each leads a process group of its own."""
