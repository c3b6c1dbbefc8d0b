"""One worker process as its engine sees it: started, spoken to, watched, and ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

from headrace.bus.data.encodings import INLINE_BYTES
from headrace.bus.sizes import shown_size
from headrace.endpoint.engines.containers.runtimes import Container
from headrace.endpoint.engines.processes.cgroups import MemoryGroup, MemoryGroups
from headrace.endpoint.engines.processes.descendants import descendants, kill_all
from headrace.endpoint.engines.processes.frame_reader import FrameReader
from headrace.endpoint.engines.processes.output import WorkerOutput
from headrace.endpoint.worker.frames import (
    COUNTERS_BYTES,
    ERR_BEGIN,
    FINISHED,
    OUT_BEGIN,
    STARTED,
    STARTED_AT,
    Report,
    Work,
    frame,
    moments,
    read_report,
)
from headrace.endpoint.worker.limits import EXIT_OUT_OF_MEMORY, WorkerLimits

logger = logging.getLogger(__name__)

ACCELERATOR_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""What the libraries of the makers of accelerators look at: NVIDIA, AMD, Intel."""

_DRAIN_S = 0.5
PIPE_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCommand:
    """How worker processes are started. None inherits from the engine's process."""

    python: str
    most_result_bytes: int
    directory: Path | None = None
    environment: Mapping[str, str] | None = None
    output: int | None = None
    """The file descriptor that takes what calls print, unless it is kept."""
    keeps_output: bool = False
    """Whether what calls print is read by the engine."""
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    memory_groups: MemoryGroups | None = None
    """Where the memory limit is put in force; None leaves it to the worker itself."""
    spool: Path | None = None
    """The directory for large payloads (`headrace.endpoint.worker.spool`); None sends everything over the socket."""
    inline_bytes: int = INLINE_BYTES
    """What is larger is put there."""
    setup: str = ""
    """Shell lines that run before the worker starts."""
    container: Container | None = None
    """What each worker is put into."""

    def on_accelerator(self, name: str) -> WorkerCommand:
        """The same for a worker that sees this accelerator only."""
        found = os.environ if self.environment is None else self.environment
        return replace(self, environment={**found, **dict.fromkeys(ACCELERATOR_VARIABLES, name)})

    def line(self, arguments: list[str]) -> list[str]:
        """The command line of a worker."""
        # -P: a file `json.py` where the pool happens to be must not take the place of the standard library's.
        line = [self.python, "-P", "-m", "headrace.endpoint.worker", *arguments]
        return after_setup(self.setup, line, may_choose=self.python == sys.executable) if self.setup else line

    def contained(self, container: Container, arguments: list[str], *, name: str) -> list[str]:
        """The command line of a container with this name, and a worker in it."""
        line = container.command(arguments, name=name)
        return after_setup(self.setup, line, may_choose=False) if self.setup else line


_BEFORE = 'before="${VIRTUAL_ENV-}:${CONDA_PREFIX-}"'
_CHOOSE = 'if [ "${VIRTUAL_ENV-}:${CONDA_PREFIX-}" != "$before" ]; then shift; set -- python3 "$@"; fi'


def after_setup(setup: str, line: list[str], *, may_choose: bool) -> list[str]:
    """A command line that runs these shell lines first, in the same process: its id stays.

    Where they may choose, and activate an environment (of venv or conda), its Python takes the place of the line's own.
    """
    lines = [_BEFORE, setup, _CHOOSE, 'exec "$@"'] if may_choose else [setup, 'exec "$@"']
    return ["/bin/bash", "-c", "\n".join(lines), "worker_init", *line]


class WorkerProcess(asyncio.BufferedProtocol):
    """A running worker. `on_report` gets each of its reports; `on_end` comes once, when all that it sent is read."""

    def __init__(
        self,
        command: WorkerCommand,
        *,
        on_report: Callable[[WorkerProcess, Report], None],
        on_end: Callable[[WorkerProcess], None],
    ) -> None:
        self._command = command
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(lambda content: on_report(self, read_report(content)))
        self._is_connected = True
        self._is_over = False
        self._counters = memoryview(bytes(COUNTERS_BYTES)).cast("Q")
        self.began_at = time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = asyncio.Event()
        self.output = WorkerOutput() if command.keeps_output else None
        """What it prints; whoever takes it when the worker has ended closes it."""
        self._group: MemoryGroup | None = None
        self.exceeded_memory = False
        """Whether it ended because it, or what its calls had started, came to its memory limit."""

    async def start(self) -> None:
        """Start the process. Raises `OSError` when it cannot be started."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            # A call of a megabyte goes in one piece, rather than by turns of five.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE_BYTES)
        counters = os.memfd_create("headrace-worker")
        try:
            os.ftruncate(counters, COUNTERS_BYTES)
            self._counters = memoryview(mmap.mmap(counters, COUNTERS_BYTES)).cast("B").cast("Q")
            self.process = self._popen(theirs.fileno(), counters)
        except OSError:
            ours.close()
            if self.output is not None:
                self.output.close()
            raise
        finally:
            theirs.close()
            os.close(counters)
        # Watched before it is spoken to: from here on, whatever happens, `on_end` comes.
        self._watch(self.process.pid)
        await self._loop.create_unix_connection(lambda: self, sock=ours)

    def _popen(self, connection: int, counters: int) -> subprocess.Popen[bytes]:
        command = self._command
        groups = command.memory_groups
        limits = command.limits.as_argument(with_memory=groups is None)
        arguments = [str(connection), str(counters), str(command.most_result_bytes), str(int(command.keeps_output))]
        arguments.append(limits)
        if command.spool is not None:
            arguments += [str(command.spool), str(command.inline_bytes)]
        self._group = groups.new() if groups else None
        with contextlib.ExitStack() as stack:
            stdout = stderr = command.output
            if self.output is not None:
                stdout, stderr = (file.writer() for file in self.output.files)
                stack.callback(os.close, stdout)
                stack.callback(os.close, stderr)
            try:
                return self._started(arguments, stdout, stderr, (connection, counters))
            except OSError:
                if self._group is not None:
                    self._group.close()
                raise

    def _started(
        self, arguments: list[str], stdout: int | None, stderr: int | None, passed: tuple[int, int]
    ) -> subprocess.Popen[bytes]:
        command = self._command
        try:
            process = subprocess.Popen(
                command.line(arguments),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=passed,
                cwd=command.directory,
                env=command.environment,
                start_new_session=True,
            )
        except ValueError as error:  # a variable of the environment holds a null character, say
            raise OSError(str(error)) from error
        if self._group is not None:
            try:
                # Before it is sent work, so what calls start is in the group as well.
                self._group.add(process.pid)
            except OSError:
                process.kill()
                process.wait()
                raise
        return process

    @property
    def pid(self) -> int:
        """The process id, also that of its group; 0 before it started."""
        return self.process.pid if self.process else 0

    @property
    def running(self) -> int:
        """The number of the call that it runs, or ran when it died; 0 when it was between two calls."""
        return self._counters[STARTED] if self._counters[STARTED] != self._counters[FINISHED] else 0

    @property
    def started_at(self) -> float:
        """When that call started, unix seconds."""
        return moments(self._counters)[STARTED_AT]

    @property
    def finished(self) -> int:
        """The number of the last call that it finished."""
        return self._counters[FINISHED]

    @property
    def output_begins(self) -> tuple[int, int]:
        """Where in stdout and stderr the output of the running call begins, or of the next one."""
        return self._counters[OUT_BEGIN], self._counters[ERR_BEGIN]

    def send(self, work: Work) -> None:
        """Send it work. What a dead worker does not take is told by its counters."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(work))

    def kill(self) -> None:
        """End it and all that its calls have started at once; `on_end` follows."""
        if self.process is not None and not self._is_over:
            # Looked for first: with their parent gone nobody could tell whose they were.
            started = descendants(self.process.pid)
            _kill_group(self.process.pid)
            kill_all(started)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket pair is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the base class

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        """Something was read: take the reports that are complete."""
        self._reader.filled(nbytes)

    def connection_lost(self, error: Exception | None) -> None:
        """The worker closed its end: it is dead, or will be."""
        self._is_connected = False
        self.kill()
        self._end_if_done()

    # Watching the process

    def _watch(self, pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)
        except OSError:  # Linux before 5.3
            threading.Thread(target=self._wait_in_thread, args=(pid,), name=f"worker-{pid}", daemon=True).start()
        else:
            self._loop.add_reader(fd, self._on_exit, fd)

    def _wait_in_thread(self, pid: int) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._loop.call_soon_threadsafe(self._on_exit, None)

    def _on_exit(self, fd: int | None) -> None:
        if fd is not None:
            self._loop.remove_reader(fd)
            os.close(fd)
        assert self.process is not None  # noqa: S101 - it is watched since it was started
        # The group goes before its leader is reaped: until then nobody else can get its number.
        _kill_group(self.process.pid)
        self._is_over = True
        self.process.wait()
        self._look_at_memory(self.process.returncode)
        # What it reported before it died may still be on its way; a child that left the group may keep the socket open.
        self._loop.call_later(_DRAIN_S, self._stop_draining)
        self._end_if_done()

    def _stop_draining(self) -> None:
        if self._is_connected and self._transport is not None:
            self._transport.abort()

    def _end_if_done(self) -> None:
        if self._is_over and not self._is_connected and not self.ended.is_set():
            self.ended.set()
            self._on_end(self)

    def _look_at_memory(self, code: int) -> None:
        self.exceeded_memory = code == EXIT_OUT_OF_MEMORY and self._command.limits.memory_bytes is not None
        if self._group is not None:
            self.exceeded_memory = self.exceeded_memory or self._group.was_exceeded
            self._group.close()

    @property
    def _exit_code(self) -> int | None:
        """How it ended: negative by a signal, None when it did not even start."""
        return self.process.returncode if self.process else None

    def explain_end(self) -> str:
        """How it ended, for people: `was killed by SIGSEGV (…)`."""
        code = self._exit_code
        limit_bytes = self._command.limits.memory_bytes
        if self.exceeded_memory and limit_bytes is not None:
            return f"came to its memory limit of {shown_size(limit_bytes)} (worker_memory_limit) and ended"
        if code is None or code >= 0:
            return f"exited with code {code}" if code is not None else "did not start"
        cause = ""
        if limit_bytes is not None and -code in _OUT_OF_MEMORY:
            cause = f"; its memory limit of {shown_size(limit_bytes)} may be the cause"
        return f"was killed by {_signal_name(-code)}{cause}"


_HINTS = {
    signal.SIGSEGV: "a crash in compiled code",
    signal.SIGBUS: "a crash in compiled code, or a full memory file system",
    signal.SIGILL: "an instruction that this processor lacks",
    signal.SIGABRT: "compiled code gave up",
    signal.SIGKILL: "often the kernel, out of memory: see its log, and use fewer workers or less memory",
    signal.SIGXCPU: "a limit on processor time",
}

_OUT_OF_MEMORY = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGTRAP})
"""How compiled code ends that was refused memory and does not say so."""


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    hint = _HINTS.get(name)
    return f"{name.name} ({hint})" if hint else name.name


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody of it is left
    except PermissionError:
        # A member runs as another user; the worker itself can be ended at least.
        os.kill(pid, signal.SIGKILL)
