"""The embedded system: what `headrace up` runs, in which order it starts, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from headrace.bus.installation.disk_guard import DiskGuard
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.private_files import write_private
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.log_files import keep_short
from headrace.cli import ports
from headrace.cli.auth_options import auth_settings
from headrace.cli.child import Child, last_lines
from headrace.cli.errors import HomeUnusable, PartFailed
from headrace.cli.home import Home
from headrace.cli.http import get_json
from headrace.cli.options import DEFAULT_HOME, HTTP_PORT, NATS_PORT, expanded
from headrace.cli.output import note, say
from headrace.cli.provider_options import provider_settings
from headrace.cli.signals import Signals
from headrace.cli.supervisor import Part, Running, Supervisor, exit_text

logger = logging.getLogger(__name__)

ENDPOINT: Final = "default"

_STOP_WITHIN_S = 9.5
_FIRST_READY_WITHIN_S = 60.0
_LOOK_S = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What `headrace up` was asked for. Ports: None is that of the last start or the usual one, 0 a free one."""

    home: Path
    host: str = "127.0.0.1"
    port: int | None = None
    nats_port: int | None = None
    workers: int | None = None
    endpoint: bool = True
    ready_file: Path | None = None
    relaxed: bool = False
    nats_server: Path | None = None
    public_host: str | None = None
    public_url: str = ""
    public_nats_urls: tuple[str, ...] = ()
    nats_websocket: tuple[str, int] | None = None
    sinks: Sequence[str] = ()
    """Where events may be sent by HTTP besides the public internet, as `--sink-allow` says it."""
    auth: tuple[str, ...] = ()
    """Whose tokens are taken, as `--auth` says it; empty is the built-in ones."""
    admins: tuple[str, ...] = ()
    """Identities of other systems that are administrators."""


def run(settings: UpSettings) -> int:
    """Run the system until a signal; the exit status. Raises `HeadraceError` when it cannot start."""
    home = Home(settings.home)
    home.prepare()
    with home.locked():
        return asyncio.run(System(settings, home).run())


class System:
    """One run of the embedded system."""

    def __init__(self, settings: UpSettings, home: Home) -> None:
        self._settings = settings
        self._home = home
        self._began = time.monotonic()
        self._signals = Signals()

    async def run(self) -> int:
        """Start, keep running, stop. The exit status: 0 after SIGTERM, 130 after Ctrl-C."""
        async with self._signals.caught():
            self._prepare()
            supervisor = Supervisor(self._parts(), failed=self._failed)
            try:
                if await self._signals.unless_stopped(self._start(supervisor)):
                    self._tell_ready()
                    await self._signals.unless_stopped(self._keep(supervisor))
            finally:
                await self._stop(supervisor)
        return 130 if self._signals.number == signal.SIGINT else 0

    async def _start(self, supervisor: Supervisor) -> None:
        try:
            async with asyncio.timeout(_FIRST_READY_WITHIN_S):
                await supervisor.start()
        except TimeoutError:
            raise PartFailed(
                f"Headrace did not come up within {_FIRST_READY_WITHIN_S:g} s; its logs are in {self._home.logs}"
            ) from None

    async def _keep(self, supervisor: Supervisor) -> None:
        guard = DiskGuard(self._operator, self._nats, self._home.nats)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervisor.keep(), name="supervisor")
            tasks.create_task(guard.run(), name="disk guard")
            tasks.create_task(keep_short(self._logs), name="logs")

    async def _stop(self, supervisor: Supervisor) -> None:
        # Nobody shall be sent to something that is about to go, nor wait for it.
        self._listener.close()
        if self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)
        if self._signals.first.is_set():
            logger.info("Stopping; once more to stop at once.", extra={"action": "up_stopping"})
        # The endpoint first: its tasks end, or go back to the queue, while the bus still stores what they say. Then the
        # service, which needs the bus to end open requests. The bus last.
        stopping = asyncio.ensure_future(supervisor.stop())
        at_once = asyncio.ensure_future(self._signals.second.wait())
        await asyncio.wait((stopping, at_once), timeout=_STOP_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        # Harmless for what has ended, and nothing shall be left of what has not.
        supervisor.kill()
        at_once.cancel()
        await asyncio.gather(stopping, at_once, return_exceptions=True)
        logger.info("Stopped.", extra={"action": "up_stopped"})

    def _prepare(self) -> None:
        """Everything that can be refused before anything runs: ports, keys, files."""
        settings = self._settings
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)  # of one that was killed
        # The service reads them itself; what is wrong with them shall be said here, and now.
        if settings.auth or settings.admins:  # a look at nothing would load the whole service: twice the start's time
            auth_settings(settings.auth, settings.admins, home=self._home.path)
        provider_settings(None, home=self._home.path)
        nats_port = self._choose_ports()
        websocket = self._choose_websocket()
        self._operator = Operator.open(self._home.keys)
        self._nats = NatsServer(
            ServerSettings(
                accounts=self._operator.accounts(),
                directory=self._home.nats,
                host=settings.host,
                port=nats_port,
                websocket=websocket,
                binary=settings.nats_server,
                relaxed=settings.relaxed,
            )
        )
        self._token = self._home.ensure_admin_token()
        # Those on this machine need no way around.
        self._home.write_profile(self._url, self._token, self._nats.url if settings.public_nats_urls else None)
        self._home.announce(self._url)
        if not ports.is_loopback(settings.host):
            note(
                f"headrace: warning: listening on {settings.host} without TLS; who can see the network can read tokens"
                " and data. Put a TLS proxy before it (deploy/README.md)."
            )

    def _choose_ports(self) -> int:
        settings, host, last = self._settings, self._settings.host, self._home.remembered_ports()
        port = ports.choose(settings.port, host=host, remembered=last.get("http"), usual=HTTP_PORT, option="--port")
        nats_port = ports.choose(
            settings.nats_port, host=host, remembered=last.get("nats"), usual=NATS_PORT, option="--nats-port"
        )
        self._port, self._listener = port, ports.listen(host, port, "--port")
        self._home.remember_ports({**last, "http": port, "nats": nats_port})
        local = "127.0.0.1" if ports.is_any(host) else host
        public = settings.public_host or (ports.outward_address() if ports.is_any(host) else host)
        self._url = f"http://{ports.in_url(local)}:{port}"
        self._public_url = settings.public_url or f"http://{ports.in_url(public)}:{port}"
        self._public_nats_urls = settings.public_nats_urls or (f"nats://{ports.in_url(public)}:{nats_port}",)
        return nats_port

    def _choose_websocket(self) -> tuple[str, int] | None:
        if self._settings.nats_websocket is None:
            return None
        (host, wanted), last = self._settings.nats_websocket, self._home.remembered_ports()
        port = ports.choose(
            wanted, host=host, remembered=last.get("websocket"), usual=wanted, option="--nats-websocket"
        )
        self._home.remember_ports({**last, "websocket": port})
        return host, port

    def _parts(self) -> list[Part]:
        parts = [
            Part(
                name="nats",
                start=self._start_nats,
                ready=_at_once,
                stop_within_s=2.0,
                broken=self._nats.needs_restart,
            ),
            Part(name="service", start=self._start_service, ready=self._service_ready, stop_within_s=2.5),
        ]
        if self._settings.endpoint:
            parts.append(
                Part(name="endpoint", start=self._start_endpoint, ready=self._endpoint_ready, stop_within_s=5.0)
            )
        return parts

    async def _start_nats(self) -> Running:
        await self._nats.start()
        return self._nats

    async def _start_service(self) -> Running:
        settings = self._settings
        arguments = ["serve", "--home", str(self._home.path), "--keys", str(self._home.keys)]
        # We hold the socket, so that a request waits while the service starts, or starts again, and is not refused.
        descriptor = self._listener.fileno()
        arguments += ["--host", settings.host, "--port", str(self._port), "--listen-fd", str(descriptor)]
        arguments += ["--public-url", self._public_url, "--nats-url", self._nats.url]
        for url in self._public_nats_urls:
            arguments += ["--public-nats-url", url]
        for allowed in settings.sinks:
            arguments += ["--sink-allow", allowed]
        for chosen in settings.auth:
            arguments += ["--auth", chosen]
        for urn in settings.admins:
            arguments += ["--admin", urn]
        return await Child.start(arguments, log=self._log("service"), descriptors=[descriptor])

    async def _start_endpoint(self) -> Running:
        self._endpoint_started_at = time.time()
        arguments = ["endpoint", "start", ENDPOINT, "--home", str(self._home.path)]
        if self._settings.workers is not None:
            arguments += ["--workers", str(self._settings.workers)]
        return await Child.start(arguments, log=self._log("endpoint"))

    async def _service_ready(self) -> None:
        while await get_json(f"{self._url}/readyz") is None:  # noqa: ASYNC110 - another process cannot set an event
            await asyncio.sleep(_LOOK_S)

    async def _endpoint_ready(self) -> None:
        while not await self._endpoint_answers():  # noqa: ASYNC110 - likewise
            await asyncio.sleep(_LOOK_S)

    async def _endpoint_answers(self) -> bool:
        endpoint_id = self._home.endpoint_id(ENDPOINT)
        if endpoint_id is None:
            return False
        status = await get_json(f"{self._url}/api/v1/endpoints/{endpoint_id}/status", token=self._token) or {}
        # A sign of life of the manager that just died lives on for some seconds.
        return status.get("status") == "online" and _unix(status.get("seen_at")) >= self._endpoint_started_at

    def _failed(self, name: str, status: int) -> Exception:
        log = self._log(name)
        return PartFailed(f"the {name} ended at its start ({exit_text(status)}); its log is {log}:{last_lines(log)}")

    def _logs(self) -> list[Path]:
        return [self._nats.log_path, *self._home.logs.glob("*.log")]

    def _log(self, name: str) -> Path:
        return self._home.logs / f"{name}.log"

    def _tell_ready(self) -> None:
        endpoint_id = self._home.endpoint_id(ENDPOINT) if self._settings.endpoint else None
        if self._settings.ready_file is not None:
            self._write_ready_file(self._settings.ready_file, endpoint_id)
        for line in self._summary(endpoint_id):
            say(line)

    def _write_ready_file(self, path: Path, endpoint_id: str | None) -> None:
        document = {
            "url": self._url,
            "token": self._token,
            "nats_url": self._nats.url,
            "endpoint_id": endpoint_id,
            "home": str(self._home.path),
            "pid": os.getpid(),
            **({"nats_websocket_url": self._nats.websocket_url} if self._nats.websocket_url else {}),
        }
        try:
            write_private(path, json.dumps(document, indent=1) + "\n")
        except OSError as error:
            raise HomeUnusable(f"--ready-file {path} cannot be written: {error.strerror or error}") from error

    def _summary(self, endpoint_id: str | None) -> list[str]:
        usual = self._home.path == expanded(DEFAULT_HOME)
        return [
            f"Headrace is up after {time.monotonic() - self._began:.1f} s.",
            "",
            f"  service   {self._url}   (API: {self._url}/docs)",
            f"  endpoint  {ENDPOINT} {endpoint_id}" if endpoint_id else "  endpoint  none",
            f"  home      {self._home.path}   (admin.token, logs/)",
            "",
            "In another terminal:",
            "",
            *([] if usual else [f"  export HEADRACE_HOME={shlex.quote(str(self._home.path))}"]),
            "  python -c 'from headrace.sdk import Executor; print(Executor().submit(pow, 2, 10).result())'",
            "",
            "Ctrl-C stops everything; started again, it has everything that it had.",
        ]


async def _at_once() -> None:
    """NATS has started only when it answers."""


def _unix(timestamp: object) -> float:
    try:
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except ValueError:
        return 0.0
