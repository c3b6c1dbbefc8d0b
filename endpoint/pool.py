"""A pool: one process with an agent, an engine and its workers. The manager starts it as

    python -m headrace.endpoint.pool SETTINGS.json

SIGTERM drains: running tasks get a grace, the rest is handed back. A second SIGTERM, or the end of the manager (its
lifeline on standard input closes), ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import platform
import select
import signal
import socket
import stat
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from headrace.bus.clock import elapsed_s
from headrace.bus.collection import collect_seldom
from headrace.bus.data.encodings import inline_bytes
from headrace.bus.errors import BusError
from headrace.bus.nats.connection import Connection
from headrace.bus.sizes import shown_size
from headrace.bus.spare_memory import give_back, keep_for_messages
from headrace.bus.tasks.bundles import Runtime
from headrace.endpoint.agent.loop import Agent
from headrace.endpoint.agent.object_service import HttpObjectService
from headrace.endpoint.agent.objects import ObjectDesk
from headrace.endpoint.agent.task_logs import TaskLogs
from headrace.endpoint.audit import AuditFile, AuditLog
from headrace.endpoint.engines.build import build
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.processes.cgroups import MemoryGroups
from headrace.endpoint.errors import CANNOT_START, CgroupsUnusable, ConfigInvalid, RegistrationRefused, ServiceAway
from headrace.endpoint.grant import PoolGrant
from headrace.endpoint.pool_file import PoolSettings
from headrace.endpoint.pool_service import HttpPoolService
from headrace.endpoint.worker.limits import WorkerLimits, worker_environment
from headrace.endpoint.worker.sandbox import SandboxRoot
from headrace.endpoint.worker.spool import Spool

logger = logging.getLogger("headrace.endpoint.pool")  # also when it is run as __main__

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
_STATUS_S = 1.0
_LIFELINE = 0
_KEPT_BYTES = 24 * 1024 * 1024
_FIRST_LOOK_S = 0.02
_MUCH_WORK_BYTES = 8 * 1024 * 1024
_SETTINGS_LOOK_S = 0.005


async def serve(settings: PoolSettings) -> None:
    """Serve the pool until it is told to stop. Raises `RegistrationRefused` when the service does not want it."""
    stop = _stop_on_signals()
    service = HttpPoolService(
        settings.service_url,
        endpoint=settings.endpoint_id,
        pool=settings.pool,
        token_path=settings.token_path,
        network=settings.network,
    )
    limits = settings.worker_limits
    memory_groups, sandboxes = _memory_groups(limits), SandboxRoot.of(limits)
    if settings.in_containers:
        settings.engine_directory.mkdir(mode=0o700, exist_ok=True)
    if sandboxes is not None:
        sandboxes.prepare()
    objects = HttpObjectService(
        settings.service_url, endpoint=settings.endpoint_id, pool=settings.pool, network=settings.network
    )
    spool = Spool(settings.spool_path)
    with contextlib.closing(service), contextlib.closing(objects), spool:
        grant, granted_at = await _granted(service), elapsed_s()
        async with Connection(
            grant.urls, grant.credentials, name=f"headrace-pool {settings.pool}", network=settings.network
        ) as connection:
            logs = TaskLogs(connection)
            audit = _audit_log(settings)
            means = Means(
                workers=settings.workers,
                python=settings.python,
                environment=settings.environment,
                added_environment=settings.added_environment,
                limits=limits,
                memory_groups=memory_groups,
                on_output=logs.add if settings.task_log_limit_bytes else None,
                most_output_bytes=settings.task_log_limit_bytes,
                spool=spool.directory,
                inline_bytes=inline_bytes(grant.max_payload),
                directory=settings.engine_directory,
            )
            agent = Agent(
                service,
                connection,
                grant,
                lambda source, on_outcomes: build(settings.engine, source, on_outcomes, means),
                runtime=Runtime(
                    python=platform.python_version(),
                    headrace=version("headrace"),
                    host=socket.gethostname(),
                    system=platform.system(),
                ),
                allow_lists=settings.allow_lists,
                refusal=settings.refusal,
                needs=settings.needs,
                on_stored=None if audit is None else audit.note,
                fair_share=settings.fair_share,
                logs=logs,
                objects=lambda token: ObjectDesk(objects, spool, token=token),
            )
            async with asyncio.TaskGroup() as group:
                renewal = group.create_task(_renew(service, connection, agent, grant, granted_at), name="renewal")
                tasks = [
                    group.create_task(agent.run(), name="agent"),
                    group.create_task(_tell_status(agent, settings), name="status"),
                    group.create_task(_spare_memory(agent), name="memory"),
                ]
                if audit is not None:
                    tasks.append(group.create_task(audit.run(), name="audit log"))
                await stop.wait()
                logger.info("Draining: running tasks get %g s.", settings.grace_s, extra={"action": "pool_draining"})
                # First no new bundles, then the engine, then the connection that stores what the engine gave.
                for task in tasks:
                    task.cancel()
                # The grace may be longer than the credential lives.
                await agent.drain(settings.grace_s)
                renewal.cancel()
                if audit is not None:
                    await audit.flush()
                if sandboxes is not None:
                    sandboxes.clear()


def _audit_log(settings: PoolSettings) -> AuditLog | None:
    if settings.audit_path is None:
        return None
    return AuditLog(AuditFile(settings.audit_path), endpoint=settings.endpoint_id, pool=settings.pool)


def _memory_groups(limits: WorkerLimits) -> MemoryGroups | None:
    """Where the kernel limits the memory of workers, or None when each of them does it for itself."""
    if limits.memory_bytes is None:
        return None
    size = shown_size(limits.memory_bytes)
    try:
        groups = MemoryGroups.of_this_process(limits.memory_bytes)
    except CgroupsUnusable as error:
        logger.info(
            "Workers, and each process that their tasks start, may have %s of private memory (RLIMIT_DATA; no cgroup: "
            "%s).",
            size,
            error,
            extra={"action": "memory_limited", "by": "rlimit"},
        )
        return None
    logger.info(
        "Workers may have %s of memory, each together with all that its tasks start (cgroup).",
        size,
        extra={"action": "memory_limited", "by": "cgroup"},
    )
    return groups


async def _granted(service: HttpPoolService) -> PoolGrant:
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            return await asyncio.to_thread(service.grant_pool)
        except ServiceAway as error:
            logger.info("Waiting for the service: %s", error, extra={"action": "service_away"})
        await asyncio.sleep(wait_s)
        wait_s = min(_LONGEST_WAIT_S, wait_s * 2)


async def _renew(
    service: HttpPoolService, connection: Connection, agent: Agent, grant: PoolGrant, granted_at: float
) -> None:
    """Move to a new credential at half of the life of the old one, or when the server ended the connection."""
    closed = asyncio.Event()
    connection.on_closed.append(closed.set)
    while True:
        due = granted_at + grant.expires_in_s / 2
        while elapsed_s() < due and not closed.is_set():
            with contextlib.suppress(TimeoutError):
                # Looked at often: a suspended machine's timers stand still with it.
                async with asyncio.timeout(min(30.0, max(0.05, due - elapsed_s()))):
                    await closed.wait()
        closed.clear()
        try:
            grant = await _granted(service)
            granted_at = elapsed_s()
            agent.adopt(grant)
            await connection.renew(grant.credentials)
        except (BusError, RegistrationRefused) as error:
            logger.warning("The pool's credential could not be renewed: %s; trying again.", error)
            granted_at = elapsed_s() - grant.expires_in_s / 2 + _LONGEST_WAIT_S


async def _tell_status(agent: Agent, settings: PoolSettings) -> None:
    """Keep the files current from which the manager knows how busy we are, and whom to end if we die."""
    told: dict[Path, str] = {}
    look_s = _FIRST_LOOK_S
    while True:
        for path, text in (
            (settings.status_path, json.dumps(agent.status)),
            (settings.pids_path, "".join(f"{pid}\n" for pid in agent.engine.pids())),
        ):
            # A full disk takes no status; tasks go on.
            with contextlib.suppress(OSError):
                if told.get(path) != text:
                    fresh = path.with_name(f"{path.name}.new")
                    fresh.write_text(text, encoding="utf-8")
                    fresh.replace(path)
                    told[path] = text
        # The endpoint is shown as online once a worker is up, so the first one must not wait for the next look.
        await asyncio.sleep(_STATUS_S if agent.status["workers"] else look_s)
        # Those of a cluster may take hours.
        look_s = min(_STATUS_S, 1.05 * look_s)


async def _spare_memory(agent: Agent) -> None:
    """Once idle after much work, have no more memory than before."""
    given_back_at = looked_at = 0
    while True:
        await asyncio.sleep(_STATUS_S)
        # Between two bursts it is needed again at once.
        was_quiet, looked_at = agent.bytes_taken == looked_at, agent.bytes_taken
        if was_quiet and agent.bytes_taken - given_back_at > _MUCH_WORK_BYTES and not agent.status["bundles"]:
            given_back_at = agent.bytes_taken
            give_back()


def _wait_for(path: Path) -> None:
    has_lifeline = stat.S_ISFIFO(os.fstat(_LIFELINE).st_mode)
    while not path.exists():
        if has_lifeline and select.select([_LIFELINE], [], [], 0)[0]:
            _on_lifeline()
        time.sleep(_SETTINGS_LOOK_S)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if stat.S_ISFIFO(os.fstat(_LIFELINE).st_mode):
        loop.add_reader(_LIFELINE, _on_lifeline)
    return stop


def _on_lifeline() -> None:
    # Nobody writes here: readable means that the manager is gone, and another one may be starting a pool already.
    if not os.read(_LIFELINE, 1024):
        os._exit(1)


def main() -> None:
    """Run the pool that the settings file describes; the manager may write it only after it has started us."""
    collect_seldom()
    # It has several in hand at once, and gives the memory back when it has none.
    keep_for_messages(_KEPT_BYTES)
    path = Path(sys.argv[1])
    _wait_for(path)
    settings = PoolSettings.read(path)
    settings = replace(
        settings,
        environment=worker_environment(os.environ, settings.environment),
        added_environment=settings.environment,
    )
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    import uvloop

    try:
        uvloop.run(serve(settings))
    except* ConfigInvalid as invalid:
        logger.error("This pool cannot start: %s", _first(invalid))
        sys.exit(CANNOT_START)
    except* RegistrationRefused as refused:
        logger.error("The service refused this pool: %s", _first(refused))
        sys.exit(69)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    main()
