"""The accounts of a process engine: calls inside it, how long their functions take, and the places of its workers."""

from __future__ import annotations

import asyncio
import collections
import math
from typing import Final
from uuid import UUID

from headrace.bus.errors import TaskError
from headrace.endpoint.engines.engine import Call, FinalState
from headrace.endpoint.engines.processes.output import RunOutput
from headrace.endpoint.engines.processes.worker_process import WorkerProcess

MOST_FRAMES: Final = 2
"""How many frames of calls may be on their way to one worker: the one that it runs, and the next."""


class FunctionTimes:
    """What is known of a function: how long its calls take, in seconds, None before the first has ended."""

    __slots__ = ("estimate_s",)

    def __init__(self) -> None:
        self.estimate_s: float | None = None

    def note(self, duration_s: float) -> None:
        """Learn from a call: a slow one counts at once, quick ones bring the estimate down little by little."""
        known = self.estimate_s
        if known is None or duration_s > known:
            self.estimate_s = duration_s
        else:
            self.estimate_s = known + 0.2 * (duration_s - known)


class Job:
    """A call inside the engine."""

    __slots__ = (
        "alone",
        "call",
        "force",
        "function",
        "losses",
        "output",
        "put_backs",
        "raised",
        "started_at",
        "timer",
        "worth_s",
    )

    def __init__(self, call: Call, function: FunctionTimes) -> None:
        self.call = call
        self.function = function
        self.alone = call.options.task_timeout_s is not None or not call.options.rerun_on_loss
        self.losses = 0
        self.raised = 0
        self.put_backs = 0
        self.worth_s = 0.0
        self.started_at = 0.0
        self.force = False
        self.output: RunOutput | None = None
        """What its present run has printed, None while that is nothing."""
        self.timer: asyncio.TimerHandle | None = None

    @property
    def attempts(self) -> int:
        """The starts so far, the present one included."""
        return self.losses + self.raised + 1

    @property
    def sandbox(self) -> str:
        """The directory of this attempt: what an earlier one left, or is still being removed, is not met again."""
        return str(self.call.key) if self.attempts == 1 else f"{self.call.key}-{self.attempts}"

    def stop_timer(self) -> None:
        """Let its time limit, or the delay of its retry, not end any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Slot:
    """The place of one worker: the process that is there now, and what it was sent."""

    __slots__ = (
        "backlog_s", "failures", "frame_ends", "functions", "has_worked", "inflight", "is_exclusive", "name", "number",
        "process", "sent", "share", "staged", "staged_bytes", "stalled", "succession", "task", "verdict", "worker",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.failures = 0
        self.task: asyncio.Task[None] | None = None
        self.succession: Succession | None = None
        """The worker that takes the place of the one that is here, once that one has done its share."""
        self.clear()

    def clear(self) -> None:
        """Nobody is here."""
        self.worker: WorkerProcess | None = None
        """The process, once it is ready."""
        self.process: WorkerProcess | None = None
        """The process, as soon as it is being started."""
        self.name = ""
        self.sent = 0
        self.inflight: dict[int, Job] = {}
        self.frame_ends: collections.deque[int] = collections.deque()
        self.functions: dict[UUID, int] = {}
        self.backlog_s = 0.0
        self.staged: list[Job] = []
        self.staged_bytes = 0
        self.is_exclusive = False
        self.stalled = 0
        self.has_worked = False
        self.share = math.inf
        """How many more calls this worker may be sent."""
        self.verdict: tuple[Job, FinalState, TaskError] | None = None
        """The call for whose sake the worker is being killed, and its outcome."""

    def has_room(self) -> bool:
        """Whether a short call could be sent."""
        return (
            self.worker is not None
            and len(self.frame_ends) < MOST_FRAMES
            and not self.is_exclusive
            and not self.stalled
            and self.verdict is None
            and self.share > 0
        )


class Succession:
    """A worker that was started to take the place of another one."""

    __slots__ = ("is_ready", "process")

    def __init__(self) -> None:
        self.process: WorkerProcess | None = None
        """None when it could not be started, or died before its time came."""
        self.is_ready = False
