"""What `headrace doctor` looks at of one endpoint: files, manager, presence, the bus, and a task that runs there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID

from headrace.bus.errors import BusError, TaskExpired
from headrace.bus.nats.connection import Connection
from headrace.bus.network import Network
from headrace.cli.findings import Finding, ok, problem, skipped, warning
from headrace.endpoint.configuration.files import OPTIONS_DEMANDED
from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.errors import EndpointError
from headrace.schemas.errors import HeadraceError
from headrace.sdk.client import Client
from headrace.sdk.errors import ClientError, Forbidden, PoolFailed
from headrace.sdk.executor import Executor
from headrace.sdk.grant import Grant

_CONNECT_S: Final = 10.0
_MARGIN_S: Final = 5.0
_SAMPLE: Final = '''\
def headrace_doctor():
    """A task of `headrace doctor`, to see whether tasks run."""
    import platform
    import socket

    return {"host": socket.gethostname(), "python": platform.python_version()}
'''


def directory_findings(directory: EndpointDirectory) -> Iterator[Finding]:
    """What can be seen of an endpoint on this machine without asking anybody."""
    name = directory.name
    try:
        notes = directory.configuration().notes
    except EndpointError as error:
        yield problem(
            "configuration", str(error), f"mend it; `headrace endpoint validate {name}` checks", endpoint=name
        )
    else:
        if notes:
            yield warning("configuration", "; ".join(map(str, notes)), "remove these keys", endpoint=name)
        else:
            yield ok("configuration", "its files are valid", endpoint=name)
    start = f"run `headrace endpoint start {name}`"
    pid = directory.running_pid()
    if pid is not None:
        yield ok("manager", f"it runs as process {pid}", endpoint=name)
    elif directory.token() is None:
        yield problem("manager", "it was never started, so no service knows it", start, endpoint=name)
    else:
        yield problem("manager", "it is not running", start, endpoint=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCheck:
    """Looks at an endpoint by way of the service, as a user of it does."""

    client: Client
    endpoint_id: UUID
    name: str
    within_s: float
    """For the sample task."""
    run_task: bool = True

    def findings(self) -> Iterator[Finding]:
        """Presence, the way to the bus, and a task."""
        try:
            status = self.client.get_endpoint_status(self.endpoint_id)
        except ClientError as error:
            yield self._problem("online", str(error), "ask its owner to share it with you, or start it again")
            return
        yield from self._presence(status)
        bus = self._bus()
        yield bus
        if not self.run_task:
            yield skipped("task", "not asked for", endpoint=self.name)
        elif bus.state != "ok" or status["status"] != "online":
            yield skipped("task", "it could not run", endpoint=self.name)
        else:
            yield self._task()

    def _presence(self, status: dict[str, Any]) -> Iterator[Finding]:
        if status["status"] != "online":
            advice = "start it; if it runs, its log says why the service does not hear of it"
            yield self._problem("online", "the service has no sign of life of it", advice)
            return
        workers = sum(pool.get("workers", 0) for pool in status["pools"])
        if not workers:
            yield warning(
                "online", f"it is online on {status['host']}, without workers", "see its log", endpoint=self.name
            )
        else:
            yield ok("online", f"it is online on {status['host']} with {workers} workers", endpoint=self.name)
        ours, theirs = version("headrace"), status["headrace_version"]
        if theirs != ours:
            said = f"the endpoint has release {theirs}, this is {ours}"
            yield warning("release", said, "when it is convenient, install the same on both sides", endpoint=self.name)

    def _bus(self) -> Finding:
        """As an Executor connects: with a credential of a session."""
        try:
            grant = Grant.of_document(self.client.open_session(self.endpoint_id, wanted=False))
        except ClientError as error:
            return self._problem("bus", str(error), "the message says what is missing")
        where = ", ".join(self.client.network.nats_urls or grant.urls)
        try:
            took_s, release = asyncio.run(_connected(grant, self.client.network))
        except BusError as error:
            advice = (
                f"{where} must be reachable from here: check the firewall, and the address that the service tells"
                " (`--public-host` of `headrace up`, `--public-nats-url` of `headrace serve`)"
            )
            return self._problem("bus", str(error), advice)
        return ok("bus", f"{where} answers in {took_s * 1000:.0f} ms (NATS {release})", endpoint=self.name)

    def _task(self) -> Finding:
        try:
            function_id = self.client.register_source_code(_SAMPLE, "headrace_doctor")
        except ClientError as error:
            return self._problem("task", str(error), "the message says what is missing")
        try:
            return self._run(function_id)
        finally:
            with contextlib.suppress(ClientError):
                self.client.delete_function(function_id)

    def _run(self, function_id: str) -> Finding:
        executor = Executor(self.endpoint_id, self.client, label="headrace doctor")
        began = time.perf_counter()
        future = executor.with_options(
            queue_timeout_s=self.within_s, task_timeout_s=self.within_s
        ).submit_to_registered_function(function_id)
        log = "its log says more (endpoint.log in its directory)"
        try:
            value = future.result(2 * self.within_s + _MARGIN_S)
        except Forbidden as error:
            return skipped("task", f"no task of ours may run there: {error}", endpoint=self.name)
        except (TimeoutError, TaskExpired, CancelledError):
            said = f"a sample task had no result within {self.within_s:g} s"
            return self._problem("task", said, f"all workers may be busy (`headrace endpoint status`); {log}")
        except PoolFailed as error:
            if str(error).startswith(OPTIONS_DEMANDED):
                return skipped("task", f"a sample task has no options to give: {error}", endpoint=self.name)
            return self._problem("task", str(error), "tasks without options do not run there; the message says why")
        except HeadraceError as error:
            return self._problem("task", f"a sample task failed: {type(error).__name__}: {error}", log)
        finally:
            future.cancel()
            executor.shutdown(wait=False)
        took_ms = (time.perf_counter() - began) * 1000
        ran = f"a sample task ran on {value['host']} with Python {value['python']}, there and back in {took_ms:.0f} ms"
        return ok("task", ran, endpoint=self.name)

    def _problem(self, check: str, said: str, advice: str) -> Finding:
        return problem(check, said, advice, endpoint=self.name)


async def _connected(grant: Grant, network: Network) -> tuple[float, str]:
    """Connect and be answered: how long that took, and the server's release."""
    began = time.perf_counter()
    connection = Connection(
        grant.urls, grant.credentials, name="headrace-doctor", connect_timeout_s=_CONNECT_S, network=network
    )
    async with connection:
        await connection.flush()
        return time.perf_counter() - began, connection.server_version
