"""A worker process: runs one call after the other, and dies with its engine.

    python -m headrace.endpoint.worker SOCKET_FD COUNTERS_FD MOST_RESULT_BYTES KEEPS_OUTPUT LIMITS [SPOOL INLINE_BYTES]

KEEPS_OUTPUT is 1 when stdout and stderr are files that the engine reads what calls print from; LIMITS are
`headrace.endpoint.limits.WorkerLimits`.

It is the leader of a process group of its own. Two threads: the main one runs calls; the *minder* watches the socket
and kills the whole group when the engine is gone, and hands results on, and waiting calls back, when a call takes long.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import CoroutineType
from typing import Any

from headrace.bus.code import FunctionCode, load, show_lines
from headrace.bus.errors import (
    ArgumentNotSerialisable,
    DecodeError,
    PayloadTooLarge,
    ResultNotSerialisable,
    TaskError,
)
from headrace.bus.failures import capture, encode_failure, of_error
from headrace.bus.values import JSON, OBJECT, decode_arguments, encode, encode_json
from headrace.endpoint.frames import (
    COUNTERS_BYTES,
    FINISHED,
    HEAD_BYTES,
    RAISED,
    REFUSED,
    STARTED,
    SUCCEEDED,
    PrintedItem,
    Report,
    ReportItem,
    Work,
    WorkItem,
    frame,
    read_work,
)
from headrace.endpoint.limits import EXIT_OUT_OF_MEMORY, WorkerLimits, limit_memory, with_hint
from headrace.endpoint.printed import Printed, flush_c_lines
from headrace.endpoint.sandbox import Sandboxes

_FLUSH_AFTER_S = 0.001
_FLUSH_BYTES = 256_000
_TICK_S = 0.025
_STALL_S = 0.05
_SHOW_S = 0.25


class Worker:
    """The main thread's half: reads work, runs calls, reports."""

    def __init__(
        self,
        connection: socket.socket,
        counters: memoryview,
        most_result_bytes: int,
        limits: WorkerLimits,
        printed: Printed | None = None,
        spool: Path | None = None,
        inline_bytes: int = 0,
    ) -> None:
        self.connection = connection
        self._spool = spool
        self._inline_bytes = inline_bytes
        self._counters = counters
        self._most_result_bytes = most_result_bytes
        self._limits = limits
        self._sandboxes: Sandboxes | None = None
        self._sandbox_names: dict[int, str] = {}
        if limits.sandboxes is not None:
            self._sandboxes = Sandboxes(limits.sandboxes, keep_failed=limits.keep_failed_sandboxes)
        self._pid = os.getpid()
        self._recursion_limit = sys.getrecursionlimit()
        self._functions: dict[int, Callable[..., Any]] = {}
        self._codes: dict[int, FunctionCode] = {}
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
        return bool(self._ended) and time.perf_counter() - self._flushed_at > _TICK_S

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
        if work.forget:
            self._functions.clear()
            self._codes.clear()
        for number, code in work.functions:
            self._codes[number] = code
        if work.sandboxes:
            self._sandbox_names.update(work.sandboxes)
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
        self._counters[STARTED] = number
        self.running_since = began = time.perf_counter()
        self.running = number
        started_at = time.time()
        if self._sandboxes is None:
            kind, tag, value = self._outcome(function, encoding, arguments, json_result)
        else:
            kind, tag, value = self._sandboxed(self._sandboxes, number, function, encoding, arguments, json_result)
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

    def _sandboxed(self, sandboxes: Sandboxes, number: int, *call: Any) -> tuple[int, int, bytes]:
        try:
            sandboxes.enter(self._sandbox_names.pop(number))
        except OSError as error:
            return self._refused(error)
        outcome = self._outcome(*call)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the function forked: the directory is the worker's
        sandboxes.leave(failed=outcome[0] != SUCCEEDED)
        return outcome

    def _outcome(self, number: int, encoding: int, arguments: bytes, json_result: bool) -> tuple[int, int, bytes]:
        try:
            function = self._functions.get(number)
            if function is None:
                function = self._load(number)
            args, kwargs = _read_arguments(encoding, arguments, self._spool)
        except BaseException as error:
            return self._refused(error)
        try:
            value = function(*args, **kwargs)
            if type(value) is CoroutineType:
                value = _run_coroutine(value)
        except BaseException as error:
            return self._raised(number, function, error)
        finally:
            if sys.getrecursionlimit() != self._recursion_limit:
                sys.setrecursionlimit(self._recursion_limit)
        try:
            return SUCCEEDED, *self._encoded(value, json_result)
        except BaseException as error:
            return self._refused(error)

    def _encoded(self, value: Any, json_result: bool) -> tuple[int, bytes]:
        try:
            tag, data = self._inline(value, json_result)
            if len(data) > self._inline_bytes and self._spool is not None:
                tag, data = _spilled(tag, data, self._spool, self._most_result_bytes)
        except (ResultNotSerialisable, MemoryError):
            raise
        except PayloadTooLarge as error:
            raise _too_large(error.size, self._most_result_bytes) from error
        except BaseException as error:
            raise _unserialisable(value, error) from error
        if len(data) > self._most_result_bytes:
            raise _too_large(len(data), self._most_result_bytes)
        return tag, data

    def _inline(self, value: Any, json_result: bool) -> tuple[int, bytes]:
        if json_result:
            return JSON, encode_json(value)
        if self._spool is None:
            return encode(value)
        try:
            return encode(value, most=self._inline_bytes)
        except PayloadTooLarge:
            return _spilled(None, value, self._spool, self._most_result_bytes)

    def _refused(self, error: BaseException) -> tuple[int, int, bytes]:
        if isinstance(error, TaskError):
            return REFUSED, *encode_failure(of_error(error))
        return REFUSED, *encode_failure(capture(self._hinted(error), runner_file=__file__))

    def _load(self, number: int) -> Callable[..., Any]:
        function = self._functions[number] = load(self._codes[number])
        return function

    def _raised(self, number: int, function: Callable[..., Any], error: BaseException) -> tuple[int, int, bytes]:
        with contextlib.suppress(BaseException):  # lines are a courtesy, and a callable may be very odd
            show_lines(self._codes[number], function)
        return RAISED, *encode_failure(capture(self._hinted(error), runner_file=__file__))

    def _hinted(self, error: BaseException) -> BaseException:
        limit_bytes = self._limits.memory_bytes
        return with_hint(error, limit_bytes) if limit_bytes and isinstance(error, MemoryError) else error


class Minder(threading.Thread):
    """Watches over the main thread. Sleeps for good while there is nothing that could become late."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(name="minder", daemon=True)
        self._worker = worker
        self._asleep = False
        self._stalled = -1
        self._alarm, self._bell = os.pipe()

    def wake(self) -> None:
        """Say that calls are about to run."""
        if self._asleep:
            self._asleep = False
            os.write(self._bell, b"!")

    def run(self) -> None:
        """Until the engine is gone."""
        if self._worker.keeps_output:
            flush_c_lines()  # here, so that nobody waits for it
        connection = self._worker.connection
        poll = select.poll()
        poll.register(self._alarm, select.POLLIN)
        while True:
            # While a call takes long, nobody else reads what the engine sent before it knew.
            poll.register(connection, select.POLLRDHUP | (select.POLLIN if self._is_stalled() else 0))
            # Asleep first, then the look whether to stay awake: `wake` goes the other way round, so one sees the other.
            self._asleep = True
            self._asleep = not self._worker.working or self._is_stalled()
            for fd, event in poll.poll(self._longest_wait_ms()):
                if fd == self._alarm:
                    os.read(self._alarm, 64)
                elif event & ~select.POLLIN:
                    if self._worker.leaving:
                        return
                    kill_own_group()
                elif self._is_stalled():
                    self._worker.give_back(self._stalled)
            self._tick()

    def _longest_wait_ms(self) -> float | None:
        if not self._asleep:
            return _TICK_S * 1000
        return _SHOW_S * 1000 if self._worker.keeps_output and self._worker.working else None

    def _is_stalled(self) -> bool:
        return self._worker.working and self._worker.running == self._stalled

    def _tick(self) -> None:
        worker, running = self._worker, self._worker.running
        if not worker.working:
            return
        if running not in (0, self._stalled) and time.perf_counter() - worker.running_since > _STALL_S:
            self._stalled = running
            worker.give_back(running)
        elif worker.has_stale_results():
            worker.flush()
        elif self._is_stalled():
            worker.show_output()


def _read_arguments(encoding: int, arguments: bytes, spool: Path | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        if encoding == OBJECT and spool is not None:
            return _joined(arguments, spool)
        return decode_arguments(encoding, arguments)
    except DecodeError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        raise ArgumentNotSerialisable(f"the arguments cannot be read on the worker: {error}") from error


def _joined(arguments: bytes, spool: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # Loaded by those who need it: most workers never meet a large payload.
    from headrace.bus.payloads import join_arguments
    from headrace.endpoint.spool import object_path

    return join_arguments(arguments, lambda part: object_path(spool, part))


def _spilled(tag: int | None, value: Any, spool: Path, most_bytes: int) -> tuple[int, bytes]:
    """A large value (or, with a tag, what it is encoded as) put into a file, from which the agent takes it."""
    from headrace.bus.payloads import spill_encoded, spill_result
    from headrace.endpoint.spool import open_result

    def open_file() -> Any:
        return open_result(spool)

    if tag is None:
        return spill_result(value, open_file, most=most_bytes)
    return spill_encoded(tag, value, open_file, most=most_bytes)


def _run_coroutine(coroutine: CoroutineType[Any, Any, Any]) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def _unserialisable(value: Any, error: BaseException) -> ResultNotSerialisable:
    kind = type(value)
    hint = "return list(...) of it" if hasattr(value, "__next__") else "return plain data, or a path to a file"
    return ResultNotSerialisable(
        f"the result, of type {kind.__module__}.{kind.__qualname__}, cannot be sent back: "
        f"{type(error).__name__}: {error}. Instead, {hint}"
    )


def _too_large(size: int, limit: int) -> ResultNotSerialisable:
    return ResultNotSerialisable(
        f"the result has at least {size} bytes and the limit of this endpoint is {limit}: return less, or write a file"
        " and return its path"
    )


def kill_own_group() -> None:
    """The engine is gone: end at once, with everything that calls have started."""
    os.killpg(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Run a worker on the descriptors that the engine passed."""
    socket_fd, counters_fd, most_result_bytes, keeps_output = map(int, arguments[:4])
    limits = WorkerLimits.of_argument(arguments[4])
    spool, inline_bytes = (Path(arguments[5]), int(arguments[6])) if len(arguments) > 5 else (None, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which lets calls end
    for fd in (socket_fd, counters_fd):
        os.set_inheritable(fd, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # they are text files at start
    counters = memoryview(mmap.mmap(counters_fd, COUNTERS_BYTES)).cast("B").cast("Q")
    os.close(counters_fd)
    sys.argv = ["headrace-worker"]
    printed = Printed(counters) if keeps_output else None
    gc.freeze()
    worker = Worker(socket.socket(fileno=socket_fd), counters, most_result_bytes, limits, printed, spool, inline_bytes)
    if limits.memory_bytes is not None:
        limit_memory(limits.memory_bytes)
    try:
        worker.run()
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)


if __name__ == "__main__":
    main(sys.argv[1:])
