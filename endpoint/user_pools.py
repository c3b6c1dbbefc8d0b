"""The pools of users' own configurations: which are wanted, which run, which wait for room, which cannot be had.

At most `max_pools` run at a time (the default pool is one of them), and `max_pools_per_principal` of one user. Where
there is no room a pool waits its turn, and pools that have nothing in hand give way: what is queued for them wakes
them again.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from headrace.bus.errors import EnvironmentUnusable
from headrace.bus.network import Network
from headrace.bus.tasks.bundles import Runtime
from headrace.endpoint.configuration.files import ConfigurationFiles
from headrace.endpoint.configuration.pool_config import PoolConfig
from headrace.endpoint.configuration.runtime import user_runtime
from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.engines.settings import engine_settings
from headrace.endpoint.environments.check import check_environment
from headrace.endpoint.environments.environments import Environments
from headrace.endpoint.errors import (
    ConfigInvalid,
    EndpointError,
    EnvironmentRefused,
    IdentityUnmapped,
    RegistrationRefused,
    ServiceAway,
)
from headrace.endpoint.local_users import LocalUser
from headrace.endpoint.pool_settings import pool_settings
from headrace.endpoint.room import Room, Tenant
from headrace.endpoint.user_directory import UserDirectory
from headrace.endpoint.user_pool import UserPool
from headrace.endpoint.wishes import Reports, State, Wish, WishClient

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_FIRST_BACK_OFF_S = 5.0
_LONGEST_BACK_OFF_S = 300.0
_LOOK_S = 0.25
_COLLECT_S = 1.0

POOLS_PATH: Final = Path("/var/lib/headrace/pools")
_LOGS_KEPT_S = 14 * 86_400.0


@dataclass(slots=True)
class _Failure:
    """Why a pool could not be had, and until when that is believed."""

    problem: str
    config: dict[str, Any]
    pause_s: float
    until: float
    code: str = ""


class UserPools:
    """`run` until cancelled, then `stop` and `kill`. `files` gives the configuration of the moment."""

    def __init__(
        self,
        directory: EndpointDirectory,
        *,
        url: str,
        endpoint_id: UUID,
        files: Callable[[], ConfigurationFiles],
        grace_s: float,
        network: Network,
        pools_path: Path = POOLS_PATH,
    ) -> None:
        """`pools_path` is where pools of local users have their directories."""
        self._pools_path = pools_path
        self._directory = directory
        self._url = url
        self._endpoint_id = endpoint_id
        self._files = files
        self._grace_s = grace_s
        self._network = network
        self._pools: dict[str, UserPool] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, tuple[Wish, PoolConfig, LocalUser | None]] = {}
        self._again: dict[str, Wish] = {}
        """Wanted while they were being stopped."""
        self._failures: dict[str, _Failure] = {}
        self._reports: Reports | None = None
        self.is_heard = False
        """Whether the service answers requests for wishes. One stands nearly always, so it sees when we are gone."""

    async def run(self) -> None:
        """Hear of wishes and fulfil them. Ends only when cancelled; pools that run stay."""
        self._tidy()
        token = lambda: self._directory.token() or ""  # noqa: E731 - the token may be replaced while we run
        name = self._directory.manager
        async with WishClient.open(
            self._url, endpoint=self._endpoint_id, manager=name, token=token, network=self._network
        ) as client:
            self._reports = Reports(client)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._reports.run(), name="reports of pools")
                tasks.create_task(self._make_room(), name="room for pools")
                tasks.create_task(self._collect_audit(), name="audit logs of pools")
                await self._hear(client, self._reports)

    async def stop(self) -> None:
        """End all pools in order: what runs gets its grace, what waits is handed back."""
        self._reports = None
        self._waiting.clear()
        self._again.clear()
        for pool in self._pools.values():
            pool.stop()
        if self._lives:
            await asyncio.wait(self._lives.values())

    def kill(self) -> None:
        """End all pools at once."""
        for pool in self._pools.values():
            pool.kill()

    def status(self) -> list[dict[str, Any]]:
        """What they do, for the sign of life."""
        return [status for pool in self._pools.values() for status in pool.status()]

    def configuration_changed(self) -> None:
        """Have pools whose configuration is another one now start anew, once they have nothing in hand."""
        self._failures.clear()
        for pool in self._pools.values():
            try:
                config, user = self._rendered(pool.wish)
            except IdentityUnmapped as error:
                logger.warning("The pool %s ends: %s", pool.wish.pool, error, extra={"action": "pool_unmapped"})
                pool.stop()
            except EndpointError:
                # Said to whoever asks for it next.
                pool.outdated = True
            else:
                pool.outdated = config.document() != pool.config.document() or user != pool.local_user

    def _tidy(self) -> None:
        """Remove what a manager that was killed has left (no pool runs now), but for the lists of workers."""
        too_old = time.time() - _LOGS_KEPT_S
        for path in self._directory.user_pool_files():
            is_log = path.suffix == ".log"
            if path.suffix in (".token", ".json", ".new") or (is_log and path.stat().st_mtime < too_old):
                path.unlink(missing_ok=True)

    # Wishes

    async def _hear(self, client: WishClient, reports: Reports) -> None:
        restarted, away = True, False
        while True:
            try:
                wishes = await client.wanted(restarted=restarted)
            except (ServiceAway, RegistrationRefused) as error:
                self.is_heard = False
                if not away:
                    away = True
                    logger.info("Not hearing which pools are wanted: %s", error, extra={"action": "wishes_lost"})
                await asyncio.sleep(_RETRY_S)
                continue
            restarted = away = False
            self.is_heard = True
            for wish in wishes:
                await self._take(wish)
            # What is answered is not wished again.
            await reports.all_told()

    async def _take(self, wish: Wish) -> None:
        pool = self._pools.get(wish.pool)
        if pool is not None:
            pool.adopt(wish)
            if pool.is_stopping:
                self._again[wish.pool] = wish
                self._tell(wish, "starting")
            else:
                self._tell(wish, pool.state, pool.problem, pool.code)
            return
        try:
            # A template may take its time.
            config, user = await asyncio.to_thread(self._rendered, wish)
        except EndpointError as error:
            logger.info(
                "%s asked for a pool that cannot be had: %s",
                wish.principal,
                error,
                extra={"action": "pool_refused", "pool": wish.pool},
            )
            code = EnvironmentUnusable.code if isinstance(error, EnvironmentRefused) else ""
            self._tell(wish, "failed", str(error), code)
            return
        except Exception as error:
            # One user's wish must not end the manager, and all other pools with it.
            logger.exception("The pool %s cannot be configured.", wish.pool, extra={"action": "pool_broken"})
            self._tell(wish, "failed", f"the pool cannot be configured: {type(error).__name__}")
            return
        if self._reports is None:
            return  # the manager stops by now
        if wish.pool in self._pools:
            # Wanted twice, and the other one was rendered first.
            self._pools[wish.pool].adopt(wish)
            self._tell(wish, self._pools[wish.pool].state)
            return
        failure = self._failures.get(wish.pool)
        if failure is not None and failure.config == config.document() and time.monotonic() < failure.until:
            self._tell(wish, "failed", failure.problem, failure.code)
            return
        self._waiting[wish.pool] = (wish, config, user)
        self._start_waiting()
        if wish.pool in self._waiting:
            self._tell(wish, "waiting")

    def _rendered(self, wish: Wish) -> tuple[PoolConfig, LocalUser | None]:
        """The configuration that a wish asks for, and whom its pool runs as.

        Raises `EndpointError`, whose text is for whoever wishes.
        """
        files = self._files()
        theirs = Runtime(python=wish.runtime.get("python", ""), headrace=wish.runtime.get("headrace", ""))
        user = None
        if files.identities is not None:
            user = LocalUser.of_name(files.identities.local_name(wish.principal, wish.accounts))
        mapped = None if user is None else {"local": user.document(), "principal": wish.principal}
        config = files.pool(wish.options, user_runtime=user_runtime(theirs), mapped_identity=mapped)
        engine = engine_settings(dict(config.engine))
        check_environment(wish.environment, files.config.environments, engine)
        if config.python is not None and shutil.which(config.python) is None:
            raise ConfigInvalid(f"python: {config.python} is not a program that can be run on the endpoint's machine")
        return config, user

    # Room

    def _start_waiting(self) -> None:
        for name, (wish, config, user) in list(self._waiting.items()):
            if self._room.has_place(self._tenants(), wish.principal):
                del self._waiting[name]
                self._start(wish, config, user)

    async def _make_room(self) -> None:
        """Stop idle pools whose configuration has changed, and those that give way to others that wait."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for pool in self._pools.values():
                if pool.outdated and pool.idle_since is not None and not pool.is_stopping:
                    # Its next task has it back, with the configuration of then.
                    logger.info("The pool %s has changed.", pool.wish.pool, extra={"action": "pool_changed"})
                    pool.stop()
            for name in self._room.givers(self._tenants(), (wish.principal for wish, _, _ in self._waiting.values())):
                logger.info("The idle pool %s gives way.", name, extra={"action": "pool_gives_way"})
                self._pools[name].stop()

    @property
    def _room(self) -> Room:
        return Room.of(self._files().config)

    def _tenants(self) -> list[Tenant]:
        now = time.monotonic()
        return [
            Tenant(
                pool=name,
                principal=pool.wish.principal,
                idle_s=None if pool.idle_since is None else now - pool.idle_since,
                leaves=pool.is_stopping,
            )
            for name, pool in self._pools.items()
        ]

    async def _collect_audit(self) -> None:
        while True:
            await asyncio.sleep(_COLLECT_S)
            for pool in list(self._pools.values()):
                await asyncio.to_thread(pool.collect_audit)

    # Lives

    def _start(self, wish: Wish, config: PoolConfig, user: LocalUser | None) -> None:
        directory = self._directory
        if user is not None:
            directory = UserDirectory(directory, self._pools_path, self._endpoint_id, wish.pool, user)
            try:
                directory.prepare()
            except EndpointError as error:
                self._tell(wish, "failed", str(error))
                return
        settings = pool_settings(
            directory,
            wish.pool,
            config,
            url=self._url,
            endpoint_id=self._endpoint_id,
            token_path=directory.pool_file(wish.pool, "token"),
            fair_share=self._files().config.fair_share,
            grace_s=self._grace_s,
            network=self._network,
        )
        pool = UserPool(
            directory,
            wish,
            config,
            settings,
            tell=lambda state, problem: self._tell(pool.wish, state, problem, pool.code),
            grace_s=self._grace_s,
            environments=Environments(
                self._directory.path / "environments", self._files().config.environments, python=config.python
            ),
        )
        self._pools[wish.pool] = pool
        logger.info(
            "Starting the pool %s for %s%s.",
            wish.pool,
            wish.principal,
            "" if user is None else f", as the local user {user.name}",
            extra={"action": "pool_starting", "pool": wish.pool, "principal": wish.principal},
        )
        self._lives[wish.pool] = asyncio.create_task(self._live(pool), name=f"pool {wish.pool}")

    async def _live(self, pool: UserPool) -> None:
        name = pool.wish.pool
        try:
            await pool.live()
        except Exception as error:
            logger.exception("The pool %s has ended in disorder.", name, extra={"action": "pool_broken"})
            pool.kill()
            self._tell(pool.wish, "failed", f"the pool cannot be kept: {error!r}")
        await asyncio.to_thread(pool.collect_audit)
        del self._pools[name], self._lives[name]
        if pool.state == "failed":
            self._note_failure(pool)
        else:
            self._failures.pop(name, None)
        again = self._again.pop(name, None)
        if again is not None and self._reports is not None:
            await self._take(again)
        self._start_waiting()

    def _note_failure(self, pool: UserPool) -> None:
        name, before = pool.wish.pool, self._failures.get(pool.wish.pool)
        pause_s = _FIRST_BACK_OFF_S if before is None else min(2 * before.pause_s, _LONGEST_BACK_OFF_S)
        logger.error(
            "The pool %s of %s is given up for %g s.",
            name,
            pool.wish.principal,
            pause_s,
            extra={"action": "pool_given_up", "pool": name},
        )
        now = time.monotonic()
        # What nobody has asked for again is forgotten: users may think of ever new configurations.
        self._failures = {each: old for each, old in self._failures.items() if now < old.until + _LONGEST_BACK_OFF_S}
        self._failures[name] = _Failure(pool.problem, pool.config.document(), pause_s, now + pause_s, pool.code)

    def _tell(self, wish: Wish, state: State, problem: str = "", code: str = "") -> None:
        # While the manager stops nothing is said: what ran goes on when it is back.
        if self._reports is not None:
            # Users read it, whom it does not concern where the endpoint has its files.
            problem = problem.replace(f"{self._directory.path}/", "")
            self._reports.tell(wish.pool, wish.number, state, problem, code)
