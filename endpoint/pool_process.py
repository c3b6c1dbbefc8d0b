"""A pool as a child process of the manager: started, kept running, stopped, and cleaned up after."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.bus.parent import die_with_parent
from headrace.endpoint.directory import EndpointDirectory, read_foreign, remove_foreign
from headrace.endpoint.load import resident_bytes
from headrace.endpoint.local_users import LocalUser

logger = logging.getLogger(__name__)

_FIRST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 30.0
_STABLE_AFTER_S = 10.0
_KILL_MARGIN_S = 0.75
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEnd:
    """How a pool's process ended."""

    how: str
    """In words: the pool …"""
    status: int | None = None
    """None when it had not begun."""
    had_workers: bool = False
    """Whether it had started any: then it did not end for its configuration alone."""


class PoolProcess:
    """One pool: `warm_up` perhaps, `keep` until it is cancelled, `stop` or `kill`."""

    def __init__(self, directory: EndpointDirectory, pool: str, *, grace_s: float, log: Path | None = None) -> None:
        """`log` gets what the pool says; by default the endpoint's log does."""
        self._directory = directory
        self._pool = pool
        self._grace_s = grace_s
        self._log = log or directory.log_file
        self._process: asyncio.subprocess.Process | None = None
        self._is_warm = False

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def warm_up(self) -> None:
        """Start a process that loads what a pool needs and waits for its settings. Fails without a word: `keep` tells
        of it."""
        with contextlib.suppress(OSError):
            await self._spawn()
            self._is_warm = True

    async def keep(self, settings: dict[str, Any]) -> None:
        """Start the pool, and start it again whenever it ends, with a growing pause. Ends only when cancelled.

        `settings` is what `headrace.endpoint.pool` reads from its file.
        """
        pause_s = _FIRST_BACK_OFF_S
        while True:
            began = time.monotonic()
            end = await self.run(settings)
            if time.monotonic() - began > _STABLE_AFTER_S:
                pause_s = _FIRST_BACK_OFF_S
            logger.error(
                "The pool %s %s; starting it again in %g s. Its unfinished tasks run again.",
                self._pool,
                end.how,
                pause_s,
                extra={"action": "pool_ended", "pool": self._pool},
            )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_BACK_OFF_S)

    async def stop(self) -> None:
        """Let the pool finish its running tasks and hand back the rest; kill it when the grace is over."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace_s + _KILL_MARGIN_S):
                    await process.wait()
        self.kill()
        await process.wait()

    def kill(self) -> None:
        """End the pool and its workers at once. Harmless when they have ended."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._clean_up()

    def status(self) -> list[dict[str, Any]]:
        """What the pool does, for the sign of life: nothing until it said something for the first time."""
        found = self._directory.pool_status(self._pool)
        if self.pid is None or found is None:
            return []
        counts = {name: found.get(name, 0) for name in ("workers", "busy", "queued")}
        processes = [self.pid, *_pids_in(self._directory.pool_file(self._pool, "pids"))]
        return [{"pool": self._pool, **counts, "memory_bytes": resident_bytes(processes)}]

    async def ready(self) -> None:
        """Wait until the pool has workers."""
        while not any(status["workers"] for status in self.status()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(_LOOK_S)

    async def run(self, settings: dict[str, Any]) -> PoolEnd:
        """Start the pool and wait for its end."""
        try:
            process = await self._start(settings)
        except OSError as error:
            # A full disk, or too many processes: it may pass.
            return PoolEnd(how=f"cannot be started: {error}")
        status = await process.wait()
        had_workers = self._has_workers()
        self._clean_up()
        return PoolEnd(how=f"ended ({_exit_text(status)})", status=status, had_workers=had_workers)

    def _has_workers(self) -> bool:
        has_told = bool((self._directory.pool_status(self._pool) or {}).get("workers"))
        return has_told or bool(_pids_in(self._directory.pool_file(self._pool, "pids")))

    async def _start(self, settings: dict[str, Any]) -> asyncio.subprocess.Process:
        process, self._is_warm = self._process if self._is_warm else None, False
        if process is None or process.returncode is not None:
            process = await self._spawn()
        # Only now: the process waits for this file.
        self._directory.write_pool_file(self._pool, "json", json.dumps(settings, indent=2) + "\n")
        logger.info(
            "Started the pool %s as process %d.",
            self._pool,
            process.pid,
            extra={"action": "pool_started", "pool": self._pool},
        )
        return process

    async def _spawn(self) -> asyncio.subprocess.Process:
        # What an earlier manager left behind, if it was killed together with its pool.
        self._clean_up(just_ended=False)
        path = self._directory.pool_file(self._pool)
        path.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # what lies in the current directory must not shadow a module
                "-m",
                "headrace.endpoint.pool",
                str(path),
                # The lifeline: it ends when we do, however we do.
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._directory.pool_cwd,
                **self._whose(),
            )
        return self._process

    def _whose(self) -> dict[str, Any]:
        user = self._directory.pool_user
        if user is not None:
            return {**user.process_options(), "env": user.environment(os.environ)}
        # A session of its own: Ctrl-C at the terminal is for us, who stop the pool in order.
        return {"preexec_fn": die_with_parent(), "start_new_session": True}

    def _clean_up(self, *, just_ended: bool = True) -> None:
        """Kill the workers of a pool that died without ending them, and forget what it said of itself."""
        pids_file = self._directory.pool_file(self._pool, "pids")
        for pid in _pids_in(pids_file):
            if _is_worker(pid, just_ended=just_ended, user=self._directory.pool_user):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        remove_foreign(pids_file)
        remove_foreign(self._directory.pool_file(self._pool, "status.json"))


def _pids_in(path: Path) -> list[int]:
    try:
        found = {int(digits) for digits in re.findall(rb"\d{1,9}", read_foreign(path) or b"")}
        # 0 and 1 would mean our own group, and everything.
        return sorted(found - {0, 1})
    except ValueError:
        return []


def _is_worker(pid: int, *, just_ended: bool, user: LocalUser | None) -> bool:
    """Whether this process group may be killed as that of a worker of ours: by now the number may be somebody else's.

    A worker that is gone may have left children in its group. While they live nobody else gets its number, but a group
    without its leader cannot be told from a stranger's unless the pool has `just_ended`.
    """
    try:
        if user is not None and os.stat(f"/proc/{pid}").st_uid != user.uid:
            return False
        return b"headrace.endpoint.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        # What a local user's pool says of processes that we cannot see is not believed.
        return just_ended and user is None and Path("/proc/self").exists()
    except OSError:
        return False


def _exit_text(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"status {status}"
