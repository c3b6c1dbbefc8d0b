"""The manager: the long-lived process of an endpoint. It registers, tells that it lives, and keeps the pool running."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from headrace.bus.log_files import keep_short
from headrace.bus.names import DEFAULT_POOL
from headrace.bus.network import DIRECT, Network
from headrace.endpoint.configuration.files import ConfigurationFiles
from headrace.endpoint.configuration.reload import LiveConfiguration
from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.errors import ConfigInvalid, RegistrationRefused
from headrace.endpoint.hangup import Terminal
from headrace.endpoint.kept_pool import KeptPool
from headrace.endpoint.pool_process import PoolProcess
from headrace.endpoint.pool_settings import pool_settings
from headrace.endpoint.service_client import ServiceClient
from headrace.endpoint.standing import Standing
from headrace.endpoint.user_pools import POOLS_PATH, UserPools
from headrace.endpoint.watch_process import WatchProcess, watch_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """How a manager works. `token` is the owner's: needed to register, and to change what the service knows."""

    url: str
    token: str | None = field(default=None, repr=False)
    workers: int | None = None
    """Instead of the number in `config.yaml`."""
    presence_every_s: float = 5.0
    pool_ready_within_s: float = 3.0
    """The endpoint is shown as online once its pool works, or after this."""
    grace_s: float = 3.5
    """For running tasks, when the manager is told to stop."""
    service_timeout_s: float = 4.0
    network: Network = DIRECT
    pools_path: Path = POOLS_PATH
    """Where pools of local users have their directories."""


class Manager:
    """The manager of one endpoint. Making the object does nothing; `run` does it all, once."""

    def __init__(self, directory: EndpointDirectory, settings: ManagerSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._reread = asyncio.Event()
        self._terminal = Terminal()

    def hang_up(self) -> None:
        """Read the configuration again; or, where the terminal was closed that we were started from, stop."""
        if self._terminal.is_closed():
            self.stop()
        else:
            self._reread.set()

    def stop(self) -> None:
        """Drain and end; called again, end at once."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def run(self) -> None:
        """Serve until it is told to stop (SIGTERM, SIGINT or `stop`).

        Raises `ConfigInvalid`, `EndpointRunning`, and, only when the endpoint was never registered, `ServiceAway` and
        `RegistrationRefused`.
        """
        with self._directory.locked():
            live = LiveConfiguration(self._directory.path)
            config = live.files.config
            await _check(live.files, self._directory)
            pool = PoolProcess(self._directory, DEFAULT_POOL, grace_s=self._settings.grace_s)
            settings = self._settings
            with ServiceClient(settings.url, timeout_s=settings.service_timeout_s, network=settings.network) as service:
                standing = Standing(self._directory, service, token=settings.token)
                async with self._signals():
                    try:
                        # It loads while the service still starts, perhaps, and while we register.
                        await pool.warm_up()
                        endpoint_id = await self._unless_stopped(standing.registered(config))
                        if endpoint_id is not None:
                            await self._serve(standing, endpoint_id, live, pool)
                    finally:
                        # However we got here, no pool stays behind.
                        pool.kill()

    async def _unless_stopped(self, work: Coroutine[object, object, UUID]) -> UUID | None:
        """The work's result, or None when the manager was told to stop before it was there."""
        task = asyncio.create_task(work, name="registration")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _serve(self, standing: Standing, endpoint_id: UUID, live: LiveConfiguration, pool: PoolProcess) -> None:
        settings = self._pool_settings(endpoint_id, live.files)
        logger.info(
            "The endpoint %s (%s) starts.",
            self._directory.name,
            endpoint_id,
            extra={"action": "endpoint_started", "endpoint_id": str(endpoint_id)},
        )
        kept = KeptPool(pool, settings)
        users = UserPools(
            self._directory,
            url=self._settings.url,
            endpoint_id=endpoint_id,
            files=lambda: live.files,
            grace_s=self._settings.grace_s,
            network=self._settings.network,
            pools_path=self._settings.pools_path,
        )
        watch = WatchProcess(self._directory, self._watch_settings(endpoint_id, live.files))
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run(), name="watcher of files")
            keep = tasks.create_task(kept.run(), name=f"pool {DEFAULT_POOL}")
            wishes = tasks.create_task(users.run(), name="pools of users")
            changes = tasks.create_task(
                self._take_changes(standing, endpoint_id, live, kept, users, watch), name="changes"
            )
            presence = tasks.create_task(self._tell_presence(standing, endpoint_id, pool, users), name="presence")
            logs = tasks.create_task(keep_short(self._directory.logs), name="logs")
            await self._stop.wait()
            # Nobody restarts or starts a pool from here on.
            changes.cancel()
            keep.cancel()
            wishes.cancel()
            watching.cancel()
            # The pools finish their tasks while we still look alive to those who wait for them.
            await self._stop_pools(pool, users)
            presence.cancel()
            logs.cancel()
        # Last, so that no late sign of life makes the endpoint look alive again.
        if not self._stop_now.is_set():
            await standing.end_presence(endpoint_id)
        logger.info("The endpoint %s has stopped.", self._directory.name, extra={"action": "endpoint_stopped"})

    async def _take_changes(
        self,
        standing: Standing,
        endpoint_id: UUID,
        live: LiveConfiguration,
        kept: KeptPool,
        users: UserPools,
        watch: WatchProcess,
    ) -> None:
        """Whenever SIGHUP comes, go by what the files say now."""
        while True:
            await self._reread.wait()
            self._reread.clear()
            if not await live.reload(lambda files: _check(files, self._directory)):
                continue
            config = live.files.config
            logging.getLogger().setLevel(config.log_level.upper())
            try:
                await standing.tell_config(endpoint_id, config)
            except RegistrationRefused as error:
                logger.error("The service was not told of the changes: %s", error, extra={"action": "config_not_told"})
            kept.change(self._pool_settings(endpoint_id, live.files))
            users.configuration_changed()
            watch.change(self._watch_settings(endpoint_id, live.files))

    async def _stop_pools(self, pool: PoolProcess, users: UserPools) -> None:
        stopping = asyncio.gather(pool.stop(), users.stop())
        at_once = asyncio.create_task(self._stop_now.wait(), name="second signal")
        await asyncio.wait((stopping, at_once), return_when=asyncio.FIRST_COMPLETED)
        pool.kill()
        users.kill()
        at_once.cancel()
        await asyncio.gather(stopping, at_once, return_exceptions=True)

    def _pool_settings(self, endpoint_id: UUID, files: ConfigurationFiles) -> dict[str, Any]:
        """What `headrace.endpoint.pool` reads for the default pool."""
        config, refusal = files.default_pool()
        if self._settings.workers is not None:
            config = replace(config, workers=self._settings.workers)
        settings = pool_settings(
            self._directory,
            DEFAULT_POOL,
            config,
            url=self._settings.url,
            endpoint_id=endpoint_id,
            token_path=self._directory.token_file,
            fair_share=files.config.fair_share,
            grace_s=self._settings.grace_s,
            network=self._settings.network,
        )
        return {**settings, "refusal": refusal}

    def _watch_settings(self, endpoint_id: UUID, files: ConfigurationFiles) -> dict[str, Any] | None:
        settings = self._settings
        return watch_settings(
            self._directory, files.config, url=settings.url, endpoint_id=endpoint_id, network=settings.network
        )

    async def _tell_presence(self, standing: Standing, endpoint_id: UUID, pool: PoolProcess, users: UserPools) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.pool_ready_within_s):
                await pool.ready()
        await standing.tell_presence(
            endpoint_id,
            lambda: [*pool.status(), *users.status()],
            is_heard=lambda: users.is_heard,
            every_s=self._settings.presence_every_s,
        )

    @contextlib.asynccontextmanager
    async def _signals(self) -> AsyncIterator[None]:
        """SIGTERM and SIGINT drain; the second of them ends at once. SIGHUP has the configuration read again."""
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGTERM, signal.SIGINT]
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        # `nohup` says that a closed terminal is nothing to us.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self.hang_up)
            numbers.append(signal.SIGHUP)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def _check(files: ConfigurationFiles, directory: EndpointDirectory) -> None:
    """Raises `ConfigInvalid` when the default pool cannot be made, or its workers' interpreter cannot run workers."""
    if files.identities is not None and os.geteuid() != 0:
        raise ConfigInvalid(
            f"{directory.config_file}: identity_mapping_config_path: only root can run pools as other users; start the"
            " endpoint as root, or take the line out"
        )
    config, refusal = files.default_pool()
    if refusal is not None and files.identities is None:
        logger.warning("%s", refusal, extra={"action": "options_demanded"})
    if config.python is None:
        return
    where = f"{directory.config_file}: python: {config.python}"
    if shutil.which(config.python) is None:
        raise ConfigInvalid(f"{where} is not a program that can be run on this machine")
    process = await asyncio.create_subprocess_exec(
        config.python,
        "-P",
        "-c",
        "import headrace.endpoint.worker.__main__",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines() or ["no message"]
        version = importlib.metadata.version("headrace")
        raise ConfigInvalid(
            f"{where} cannot run workers: {lines[-1]}; it must be Python 3.11 or newer with headrace: "
            f"run `{config.python} -m pip install headrace=={version}`"
        )
