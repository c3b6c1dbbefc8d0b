"""A worker's loop: reads work, runs calls one after the other, reports.

A worker is the leader of a process group of its own. Two threads: the main one runs calls; the *minder* watches the
socket and kills the whole group when the engine is gone, and hands results on, and waiting calls back, when a call
takes long.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import socket
import threading
import time
from typing import Any

from headrace.endpoint.worker.calls import Calls, Outcome
from headrace.endpoint.worker.frames import (
    FINISHED,
    HEAD_BYTES,
    STARTED,
    STARTED_AT,
    SUCCEEDED,
    PrintedItem,
    Report,
    ReportItem,
    Work,
    WorkItem,
    frame,
    moments,
    read_work,
)
from headrace.endpoint.worker.limits import WorkerLimits
from headrace.endpoint.worker.minder import TICK_S, Minder, kill_own_group
from headrace.endpoint.worker.printed import Printed
from headrace.endpoint.worker.sandbox import Sandboxes

_FLUSH_AFTER_S = 0.001
_FLUSH_BYTES = 256_000


class Worker:
    """The main thread's half: reads work, runs calls, reports."""

    def __init__(
        self,
        connection: socket.socket,
        counters: memoryview,
        calls: Calls,
        limits: WorkerLimits,
        printed: Printed | None = None,
    ) -> None:
        self.connection = connection
        self._counters = counters
        self._moments = moments(counters)
        self._calls = calls
        self._sandboxes: Sandboxes | None = None
        self._sandbox_names: dict[int, str] = {}
        self._specifications: dict[int, bytes] = {}
        if limits.sandboxes is not None:
            self._sandboxes = Sandboxes(limits.sandboxes, keep_failed=limits.keep_failed_sandboxes)
        self._pid = os.getpid()
        self._waiting: collections.deque[WorkItem] = collections.deque()
        self._reading = threading.Lock()
        self._reporting = threading.Lock()
        self._ended: list[ReportItem] = []
        self._ended_bytes = 0
        self._printed = printed
        self._outputs: list[PrintedItem] = []
        self._flushed_at = 0.0
        self._leaving = False
        self._minder = Minder(self)
        self.working = False
        """Whether calls are being run; false while waiting for the engine."""
        self.running = 0
        """The number of the running call, 0 while there is none."""
        self.running_since = 0.0

    def run(self) -> None:
        """Work until told to leave. Kills the process group when the engine is gone."""
        self._minder.start()
        self._send(Report([], []))
        while True:
            while self._waiting:
                try:
                    item = self._waiting.popleft()
                except IndexError:  # the minder was quicker
                    break
                self._do(item)
            self.working = False
            self.running = 0
            self.flush()
            with self._reading:
                if not self._leaving and not self._waiting:
                    self._read_work()
            if self._leaving:
                return
            if self._printed is not None:
                self._printed.begin()
            self.working = True
            self._minder.wake()

    @property
    def keeps_output(self) -> bool:
        """Whether the engine reads what calls print."""
        return self._printed is not None

    @property
    def leaving(self) -> bool:
        """Whether the engine told this worker to leave."""
        return self._leaving

    def flush(self) -> None:
        """Report what has ended."""
        with self._reporting:
            if self._ended:
                self._send(self._report())
                self._flushed_at = time.perf_counter()

    def has_stale_results(self) -> bool:
        """Whether a result waits for the end of a call that takes longer than results should wait."""
        return bool(self._ended) and time.perf_counter() - self._flushed_at > TICK_S

    def show_output(self) -> None:
        """Let be seen what the running call has printed. For the minder."""
        if self._printed is not None:
            self._printed.show()

    def give_back(self, stalled: int) -> None:
        """Hand back every call that has not started. For the minder, while the main thread is in a long call."""
        if not self._reading.acquire(blocking=False):
            return  # the main thread reads: the call has just ended
        try:
            while not self._leaving and select.select([self.connection], [], [], 0)[0]:
                self._read_work()
            returned = []
            while self._waiting:
                try:
                    number = self._waiting.pop()[0]
                    returned.append(number)
                    self._sandbox_names.pop(number, None)
                    self._specifications.pop(number, None)
                except IndexError:  # the main thread was quicker
                    break
        finally:
            self._reading.release()
        with self._reporting:
            self._send(self._report(returned, stalled))

    def _report(self, returned: list[int] | None = None, stalled: int = 0) -> Report:
        ended, self._ended, self._ended_bytes = self._ended, [], 0
        outputs, self._outputs = self._outputs, []
        return Report(ended, returned or [], stalled, outputs)

    def _read_work(self) -> None:
        size = int.from_bytes(self._receive(HEAD_BYTES), "little")
        work: Work = read_work(self._receive(size))
        self._calls.learn(work.functions, forget=work.forget)
        if work.sandboxes:
            self._sandbox_names.update(work.sandboxes)
        if work.specifications:
            self._specifications.update(work.specifications)
        self._leaving = work.leave
        self._waiting.extend(work.calls)

    def _receive(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view, have = memoryview(buffer), 0
        while have < size:
            try:
                count = self.connection.recv_into(view[have:])
            except OSError:
                count = 0
            if count == 0:
                kill_own_group()
            have += count
        return buffer

    def _send(self, report: Report) -> None:
        try:
            self.connection.sendall(frame(report))
        except OSError:
            kill_own_group()

    def _do(self, item: WorkItem) -> None:
        number, function, encoding, arguments, json_result = item
        self._moments[STARTED_AT] = started_at = time.time()
        self._counters[STARTED] = number
        self.running_since = began = time.perf_counter()
        self.running = number
        if self._sandboxes is None and not self._specifications:
            kind, tag, value = self._calls.run(function, encoding, arguments, json_result)
        else:
            kind, tag, value = self._run_specially(number, function, encoding, arguments, json_result)
        now = time.perf_counter()
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the function forked came back here: it must not speak for the worker
        output = None if self._printed is None else self._printed.end(number)
        with self._reporting:
            if output is not None:
                self._outputs.append(output)
            self._ended.append((number, kind, tag, value, started_at, now - began))
            self._ended_bytes += len(value)
        self._counters[FINISHED] = number
        if output is not None and self._printed is not None:
            self._printed.tell()
        if now - self._flushed_at > _FLUSH_AFTER_S or self._ended_bytes > _FLUSH_BYTES:
            self.flush()

    def _run_specially(self, number: int, *call: Any) -> Outcome:
        specification = self._specifications.pop(number, b"")
        with _applied(specification) if specification else contextlib.nullcontext():
            if self._sandboxes is None:
                return self._calls.run(*call)
            return self._sandboxed(self._sandboxes, number, *call)

    def _sandboxed(self, sandboxes: Sandboxes, number: int, *call: Any) -> Outcome:
        try:
            sandboxes.enter(self._sandbox_names.pop(number))
        except OSError as error:
            return self._calls.refused(error)
        outcome = self._calls.run(*call)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the function forked: the directory is the worker's
        sandboxes.leave(failed=outcome[0] != SUCCEEDED)
        return outcome


def _applied(specification: bytes) -> contextlib.AbstractContextManager[None]:
    # Loaded by those who need it: most workers never meet a resource specification.
    from headrace.bus.mpi import applied

    return applied(specification)
