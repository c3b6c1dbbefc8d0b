"""Calls inside an engine that are with no worker: the next ones, those that come again, those that wait for a retry."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Collection
from uuid import UUID

from headrace.endpoint.engines.engine import Source
from headrace.endpoint.engines.processes.slots import FunctionTimes, Job

_MOST_ESTIMATES = 100_000


class Backlog:
    """Asks the source for calls when it has none itself. `on_ready` is called when the time of a retry has come."""

    def __init__(self, source: Source, on_ready: Callable[[], None]) -> None:
        self._source = source
        self._on_ready = on_ready
        self._functions: dict[UUID, FunctionTimes] = {}
        self.again: collections.deque[Job] = collections.deque()
        """Calls that came back."""
        self.held: Job | None = None
        """The call that is next, because nobody had room for it when it was taken."""
        self._delayed: dict[UUID, Job] = {}

    def __len__(self) -> int:
        return len(self.again) + len(self._delayed) + (self.held is not None)

    def next_job(self) -> Job | None:
        """The next call, None if there is none now."""
        if self.held is not None:
            job, self.held = self.held, None
            return job
        if self.again:
            return self.again.popleft()
        call = self._source.next_call()
        if call is None:
            return None
        function = self._functions.get(call.function)
        if function is None:
            if len(self._functions) >= _MOST_ESTIMATES:
                self._functions.clear()
            function = self._functions[call.function] = FunctionTimes()
        return Job(call, function)

    def remove(self, keys: Collection[UUID]) -> list[Job]:
        """Take out these calls; the ones that were here."""
        found = self._remove_undelayed([job for job in self._undelayed() if job.call.key in keys])
        return found + [self._delayed.pop(key) for key in keys if key in self._delayed]

    def remove_fresh(self, keys: Collection[UUID]) -> list[Job]:
        """Take out those of these calls that were never started; the ones that were here."""
        return self._remove_undelayed([job for job in self._undelayed() if job.call.key in keys and job.attempts == 1])

    def put_first(self, jobs: list[Job]) -> None:
        """Calls that came back, and are the next ones."""
        self.again.extendleft(reversed(jobs))

    def retry(self, job: Job) -> None:
        """Let a call that has raised run again, when its delay is over."""
        job.raised += 1
        delay_s = job.call.options.retry_delay_s
        if delay_s <= 0:
            self.again.append(job)
            return
        self._delayed[job.call.key] = job
        job.timer = asyncio.get_running_loop().call_later(delay_s, self._after_delay, job)

    def close(self) -> list[Job]:
        """Let no delay end any more; all calls that are here."""
        for job in self._delayed.values():
            job.stop_timer()
        return [*self.again, *self._delayed.values(), *([self.held] if self.held else [])]

    def _after_delay(self, job: Job) -> None:
        job.timer = None
        self.again.append(self._delayed.pop(job.call.key))
        self._on_ready()

    def _undelayed(self) -> list[Job]:
        return [*([self.held] if self.held else []), *self.again]

    def _remove_undelayed(self, jobs: list[Job]) -> list[Job]:
        for job in jobs:
            if job is self.held:
                self.held = None
            else:
                self.again.remove(job)
        return jobs
