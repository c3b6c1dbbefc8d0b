"""One pool with a user's configuration: started, kept running while it has work, stopped when it is idle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from headrace.bus.errors import EnvironmentUnusable
from headrace.bus.functions.requirements import Needs
from headrace.bus.parent import die_with_parent
from headrace.endpoint.configuration.pool_config import PoolConfig
from headrace.endpoint.directory import EndpointDirectory, remove_foreign
from headrace.endpoint.environments.environments import Environments, Lease
from headrace.endpoint.errors import CANNOT_START
from headrace.endpoint.local_users import LocalUser
from headrace.endpoint.pool_process import PoolProcess
from headrace.endpoint.user_directory import UserDirectory
from headrace.endpoint.wishes import State, Wish
from headrace.endpoint.worker.limits import worker_environment

logger = logging.getLogger(__name__)

_LOOK_S = 0.05
_FIRST_BACK_OFF_S = 0.1
_STABLE_AFTER_S = 10.0
_LONGEST_BACK_OFF_S = 30.0
_MOST_DEATHS = 4
"""One after another, all without workers, before a pool counts as one that cannot be had."""
_SETUP_S = 300.0
_LAST_LINES = 8
_LONGEST_LOG_BYTES = 10 * 1024 * 1024


class UserPool:
    """Make it, `live` once; `stop` ends that. `tell` hears of each state, and of the problem if there is one."""

    def __init__(
        self,
        directory: EndpointDirectory,
        wish: Wish,
        config: PoolConfig,
        settings: dict[str, Any],
        *,
        tell: Callable[[State, str], None],
        grace_s: float,
        environments: Environments,
    ) -> None:
        self.wish = wish
        self.config = config
        self.state: State = "starting"
        self.problem = ""
        self.code = ""
        """Which error the problem is, where it is not `PoolFailed`."""
        self.idle_since: float | None = None
        """Since when it has nothing in hand, by the monotonic clock; None while it has."""
        self.outdated = False
        """Its configuration is another one by now."""
        self._directory = directory
        self._settings = settings
        self._environments = environments
        self._lease: Lease | None = None
        self._tell = tell
        self._log = directory.pool_file(wish.pool, "log")
        self._process = PoolProcess(directory, wish.pool, grace_s=grace_s, log=self._log)
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._moved = time.monotonic()
        self._seen: dict[str, Any] = {}
        self._log_start = 0
        self._audit_problem = ""

    @property
    def local_user(self) -> LocalUser | None:
        """Whom it runs as; None is whoever runs the endpoint."""
        return self._directory.pool_user

    def collect_audit(self) -> None:
        """Bring what a pool of a local user wrote of its tasks to the endpoint's audit log."""
        path, directory = self.config.audit_log_path, self._directory
        if path is None or not isinstance(directory, UserDirectory):
            return
        try:
            directory.collect_audit(path, principal=self.wish.principal, pool=self.wish.pool)
            self._audit_problem = ""
        except OSError as error:
            if str(error) == self._audit_problem:
                return
            self._audit_problem = str(error)
            logger.error(
                "The audit log of the pool %s cannot be kept: %s; trying again.",
                self.wish.pool,
                error,
                extra={"action": "no_audit", "pool": self.wish.pool},
            )

    @property
    def is_stopping(self) -> bool:
        """Whether it takes no more tasks."""
        return self._stop.is_set()

    def adopt(self, wish: Wish) -> None:
        """It is wanted anew, perhaps with another token: the endpoint may have been registered again."""
        if wish.token != self.wish.token:
            self._directory.write_pool_file(wish.pool, "token", wish.token + "\n")
        self.wish = wish

    def stop(self) -> None:
        """Have it end: what runs gets its grace, what waits is handed back."""
        self._stop.set()

    def kill(self) -> None:
        """End it at once."""
        self._stop.set()
        self._kill.set()
        self._process.kill()

    def status(self) -> list[dict[str, Any]]:
        """What it does, for the sign of life."""
        return self._process.status()

    async def live(self) -> None:
        """Run until it is idle for long enough, told to stop, or cannot be had. It is `stopped` or `failed` then."""
        self._be("starting")
        self._directory.write_pool_file(self.wish.pool, "token", self.wish.token + "\n")
        problem = ""
        try:
            self._begin_log()
            problem = await self._unless(self._stop, self._shell(self.config.endpoint_setup, "endpoint_setup"))
            problem = problem or await self._environment()
            if not problem and not self._stop.is_set():
                problem = await self._keep()
                await self._unless(self._kill, self._tear_down())
        except OSError as error:
            problem = f"the pool cannot be started: {error}"
        finally:
            self._process.kill()
            if self._lease is not None:
                self._lease.close()
            for kind in ("token", "json", "status.json.new"):
                remove_foreign(self._directory.pool_file(self.wish.pool, kind))
            shutil.rmtree(self._directory.pool_file(self.wish.pool, "spool"), ignore_errors=True)
        self._be("failed" if problem else "stopped", problem)

    async def _keep(self) -> str:
        """Keep the process running; gives why it cannot be, or nothing when it ended because it should."""
        deaths, pause_s = 0, _FIRST_BACK_OFF_S
        while True:
            began = time.monotonic()
            run = asyncio.create_task(self._process.run(self._settings), name=f"run pool {self.wish.pool}")
            idle = asyncio.create_task(self._until_idle(), name=f"watch pool {self.wish.pool}")
            stop = asyncio.create_task(self._stop.wait(), name=f"stop pool {self.wish.pool}")
            try:
                await asyncio.wait((run, idle, stop), return_when=asyncio.FIRST_COMPLETED)
                if not run.done():
                    self._stop.set()
                    await self._process.stop()
                    return ""
                end = run.result()
            finally:
                for task in (run, idle, stop):
                    task.cancel()
                await asyncio.gather(run, idle, stop, return_exceptions=True)
            # What has had workers can be had: a task may have killed it, and will be known for it.
            deaths = 0 if end.had_workers else deaths + 1
            if time.monotonic() - began > _STABLE_AFTER_S:
                pause_s = _FIRST_BACK_OFF_S
            logger.error(
                "The pool %s of %s %s; see %s.",
                self.wish.pool,
                self.wish.principal,
                end.how,
                self._log,
                extra={"action": "pool_ended", "pool": self.wish.pool},
            )
            if end.status == CANNOT_START or deaths >= _MOST_DEATHS:
                return self._said(end.how)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
                    return ""
            pause_s = min(2 * pause_s, _LONGEST_BACK_OFF_S)

    async def _until_idle(self) -> None:
        """Return once the pool had nothing to do, or moved nothing, for as long as its configuration says."""
        self._moved, self.idle_since = time.monotonic(), None
        soft_s, hard_s = self.config.idle_soft_s, self.config.idle_hard_s
        while True:
            await asyncio.sleep(_LOOK_S if self.state == "starting" else min(0.5, max(_LOOK_S, soft_s / 10 or 0.5)))
            self._look()
            now = time.monotonic()
            if soft_s and self.idle_since is not None and now - self.idle_since >= soft_s:
                logger.info("The pool %s is idle.", self.wish.pool, extra={"action": "pool_idle"})
                return
            if hard_s and self.idle_since is None and self.state == "running" and now - self._moved >= hard_s:
                logger.warning("In the pool %s nothing moves.", self.wish.pool, extra={"action": "pool_stuck"})
                return

    def _look(self) -> None:
        status = self._directory.pool_status(self.wish.pool)
        if status is None:
            return
        if self.state == "starting":
            self._be("running")
        if status != self._seen:
            self._seen, self._moved, self.idle_since = status, time.monotonic(), None
        busy = any(status.get(name) for name in ("bundles", "busy", "queued"))
        if busy:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = time.monotonic()

    def _be(self, state: State, problem: str = "") -> None:
        self.state, self.problem = state, problem
        self._tell(state, problem)

    async def _shell(self, commands: str | None, key: str) -> str:
        """Run commands of the configuration; gives what went wrong."""
        if not commands:
            return ""
        user, environment = self._directory.pool_user, self.config.environment
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-ec",
                commands,
                cwd=self._directory.pool_cwd or self._directory.path,
                env=worker_environment(os.environ if user is None else user.environment(os.environ), environment),
                **(
                    {"preexec_fn": die_with_parent(), "start_new_session": True}
                    if user is None
                    else user.process_options()
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(_SETUP_S):
                status = await process.wait()
        except TimeoutError:
            status = None
        finally:
            if process.returncode is None:
                # With what the commands have started: nobody else would ever end it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if status == 0:
            return ""
        ended = f"took longer than {_SETUP_S:g} s" if status is None else f"ended with status {status}"
        return self._said(f"{key} {ended}")

    async def _tear_down(self) -> str:
        problem = await self._shell(self.config.endpoint_teardown, "endpoint_teardown")
        if problem:
            logger.warning(
                "The pool %s has ended, but %s",
                self.wish.pool,
                problem,
                extra={"action": "pool_teardown_failed", "pool": self.wish.pool},
            )
        return problem

    @staticmethod
    async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, str]) -> str:
        """What the work gives; nothing, and the work is cancelled, once the event is set."""
        working = asyncio.create_task(work, name="commands of a pool")
        ending = asyncio.create_task(event.wait(), name="end of the commands")
        try:
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else ""
        finally:
            for task in (working, ending):
                task.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    async def _environment(self) -> str:
        """Have the packages that the functions need; gives why that cannot be."""
        if not self.wish.environment:
            return ""
        building = asyncio.create_task(
            self._environments.use(Needs.of_text(self.wish.environment), self._told), name="environment"
        )
        stop = asyncio.create_task(self._stop.wait(), name="stop the building")
        try:
            await asyncio.wait((building, stop), return_when=asyncio.FIRST_COMPLETED)
            if not building.done():
                return ""
            self._lease = building.result()
        except EnvironmentUnusable as error:
            self.code = error.code
            return str(error)
        finally:
            for task in (building, stop):
                task.cancel()
            await asyncio.gather(building, stop, return_exceptions=True)
        self._settings |= {"python": str(self._lease.python), "needs": self.wish.environment}
        return ""

    def _told(self, progress: str) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{progress}\n")
        self._be("starting", progress)

    # What it said

    def _begin_log(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _LONGEST_LOG_BYTES:
            self._log.unlink()
        self._log_start = self._log.stat().st_size if self._log.exists() else 0

    def _said(self, reason: str) -> str:
        """How it ended, with its own last words."""
        try:
            with self._log.open("rb") as log:
                log.seek(self._log_start)
                text = log.read(_LONGEST_LOG_BYTES).decode(errors="replace")
        except OSError:
            text = ""
        lines = [line.rstrip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]
        return "\n".join(
            [f"the pool cannot be had: it {reason}" if not reason.startswith("endpoint_") else reason, *lines]
        )
