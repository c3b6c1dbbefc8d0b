"""A `headrace` command as a child process: it ends with its parent, and what it says goes to a log file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from headrace.bus.log_files import rotate
from headrace.bus.parent import die_with_parent


class Child:
    """A running command. It leads a process group of its own, which `kill` ends as a whole."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, arguments: Sequence[str], *, log: Path, descriptors: Sequence[int] = ()) -> Child:
        """Start `headrace ARGUMENTS…`, which inherits these descriptors.

        Secrets never travel in arguments: every user of a machine can see them.
        """
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        rotate(log)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # what lies in the current directory must not shadow a module
                "-m",
                "headrace.cli.main",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=descriptors,
                preexec_fn=die_with_parent(),
                start_new_session=True,  # Ctrl-C at the terminal is for the parent, which stops its children in order
            )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait until it ended; its exit status."""
        status = await self._process.wait()
        # What it started should have ended with it; this makes sure before another takes its place.
        self._signal_group(signal.SIGKILL)
        return status

    async def stop(self, grace_s: float) -> None:
        """Let it finish, and kill it after `grace_s`."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_s)
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """End it and its group at once."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, indented, for an error message."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16 * 1024))
        lines = file.read().decode(errors="replace").strip().splitlines()[-count:]
        return "".join(f"\n  {line}" for line in lines)
    return ""
