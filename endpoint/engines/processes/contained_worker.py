"""A worker in a container: the engine's own process is the runtime's command, and the worker comes to a socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from uuid import uuid4

from headrace.endpoint.engines.containers.check import ContainerCheck
from headrace.endpoint.engines.containers.meeting import Meeting
from headrace.endpoint.engines.containers.runtimes import Container
from headrace.endpoint.engines.processes.descendants import descendants, kill_all
from headrace.endpoint.engines.processes.output import WorkerOutput
from headrace.endpoint.engines.processes.worker_process import PIPE_BYTES, WorkerCommand, WorkerProcess
from headrace.endpoint.worker.frames import Report

_ENDING_S: Final = 10.0
_LEAVING_S: Final = 2.0


def container_check(command: WorkerCommand, container: Container) -> ContainerCheck:
    """What finds out whether such workers can be started."""
    line = command.contained(container, ["--check"], name=f"headrace-check-{uuid4().hex}")
    return ContainerCheck(container, line, command.environment)


class ContainedWorker(WorkerProcess):
    """Started as `WorkerProcess` is; `start` does not wait for the worker, which may come late or never."""

    def __init__(
        self,
        command: WorkerCommand,
        *,
        container: Container,
        on_report: Callable[[WorkerProcess, Report], None],
        on_end: Callable[[WorkerProcess], None],
    ) -> None:
        # Its memory is limited by itself: a runtime's daemon would start it outside of a group of ours.
        super().__init__(replace(command, keeps_output=False, memory_groups=None), on_report=on_report, on_end=on_end)
        self._container = container
        self._keeps_output = command.keeps_output
        self._told_end = on_end
        self._on_end = self._finish
        self._name = f"headrace-{uuid4().hex}"
        self._meeting: Meeting | None = None
        self._inside = 0
        self._said = ""
        self._coming: asyncio.Task[object] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the container. Raises `OSError` when its runtime cannot be started."""
        meeting = self._meeting = Meeting(self._container.meetings / self._name, buffer_bytes=PIPE_BYTES)
        try:
            self._counters = meeting.counters
            if self._keeps_output:
                self.output = WorkerOutput(meeting.directory)
            self.process = self._run(meeting)
        except OSError:
            if self.output is not None:
                self.output.close()
            meeting.remove()
            raise
        self._watch(self.process.pid)
        if meeting.door is not None:
            self._loop.add_reader(meeting.door, self._on_arrival)

    def _run(self, meeting: Meeting) -> subprocess.Popen[bytes]:
        command = self._command
        arguments = [str(meeting.directory), str(command.most_result_bytes), str(int(self._keeps_output))]
        arguments.append(command.limits.as_argument())
        if command.spool is not None:
            arguments += [str(command.spool), str(command.inline_bytes)]
        log = meeting.open_log()
        try:
            return subprocess.Popen(
                command.contained(self._container, arguments, name=self._name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=command.directory,
                env=command.environment,
                start_new_session=True,
            )
        except ValueError as error:  # as in `WorkerProcess`
            raise OSError(str(error)) from error
        finally:
            os.close(log)

    def _on_arrival(self) -> None:
        assert self._meeting is not None and self._meeting.door is not None  # noqa: S101, PT018 - it was watched
        self._loop.remove_reader(self._meeting.door)
        try:
            connection, self._inside = self._meeting.welcome()
        except OSError:
            self.kill()  # it was gone again
            return
        self._coming = self._loop.create_task(
            self._loop.create_unix_connection(lambda: self, sock=connection), name=f"arrival-{self.pid}"
        )

    def kill(self) -> None:
        """End the container and all that runs in it; `on_end` follows."""
        if self.process is None or self._is_over:
            return
        ending = self._container.ending(self._name)
        if ending is None:
            self._kill_processes()
        elif self._ending is None:
            self._ending = self._loop.create_task(self._end(ending), name=f"end-{self._name}")

    def _kill_processes(self) -> None:
        if self._inside and not self._is_over:
            # Its own children, too, where the container is no child of the runtime's command.
            kill_all([*descendants(self._inside), self._inside])
        super().kill()

    async def _end(self, ending: list[str]) -> None:
        """Tell the runtime. What it has not ended by then, or does not know yet, ends with its command."""
        with contextlib.suppress(OSError, TimeoutError):
            process = await asyncio.create_subprocess_exec(
                *ending,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._command.environment,
            )
            try:
                async with asyncio.timeout(_ENDING_S):
                    if await process.wait() == 0:
                        await self.ended.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        self._kill_processes()

    def connection_lost(self, error: Exception | None) -> None:
        """The worker is gone, or will be: its container follows, and the runtime tells how it ended."""
        self._is_connected = False
        self._loop.call_later(_LEAVING_S, self.kill)
        self._end_if_done()

    def _on_exit(self, fd: int | None) -> None:
        if self._meeting is not None and self._meeting.door is not None:
            self._loop.remove_reader(self._meeting.door)
            self._meeting.close()
            self._is_connected = False
        super()._on_exit(fd)

    def _finish(self, worker: WorkerProcess) -> None:
        assert self._meeting is not None  # noqa: S101 - it was started
        if not self._inside:
            self._said = self._meeting.log_tail()
        self._told_end(worker)
        self._meeting.remove()

    def explain_end(self) -> str:
        """How it ended, for people; with what the runtime said if no worker came."""
        how = super().explain_end()
        return f"{how}: {self._said}" if self._said else how

    @property
    def _exit_code(self) -> int | None:
        """What a signal ended inside, runtimes tell as a shell does."""
        code = super()._exit_code
        return 128 - code if code is not None and 128 < code < 128 + signal.NSIG else code
