"""The NATS server that Headrace brings along: telling it what to do, starting and stopping it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from headrace.bus.errors import ServerUnusable
from headrace.bus.installation.accounts import Accounts
from headrace.bus.installation.nats_binary import check_version, find_binary
from headrace.bus.installation.private_files import write_private
from headrace.bus.parent import die_with_parent

logger = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024

TIB: Final = 1 << 40

_LOG_BYTES = 10 * 1024 * 1024
_GREETING_WITHIN_S = 0.5
_TIMER_SLACK_S = 0.001
"""While calls of the system are under way (an fsync before each acknowledgement), Go's runtime wants to look after
them every 0.02 ms, on a thread that does nothing else: a seventh of the server's processor time. Once a millisecond
will do."""
_ROOM_BYTES = 64 * 1024 * 1024
_WRITE_FAILED = re.compile(rb"critical write error|JetStream out of|no space left on device", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server runs. `port` 0 is a free one. `directory` holds its configuration, log and store."""

    accounts: Accounts
    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    websocket: tuple[str, int] | None = None
    """The address and port of a second listener, for WebSockets: without TLS, which a proxy before it may add."""
    binary: Path | None = None
    relaxed: bool = False
    """Sync to disk every two minutes rather than before each acknowledgement: faster, and a power cut loses some."""
    max_payload: int = MAX_PAYLOAD_BYTES
    max_store_bytes: int | None = None
    start_within_s: float = 10.0


class NatsServer:
    """One server process. `port` and `url`, and those for WebSockets, are known once it has started; starting it
    again keeps them."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.port = settings.port
        self.websocket_port = settings.websocket[1] if settings.websocket else 0
        self._log_read = 0
        self._write_failed = False
        self._told_full = False

    async def __aenter__(self) -> NatsServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{_connectable(self._settings.host)}:{self.port}"

    @property
    def websocket_url(self) -> str | None:
        """Where clients connect by WebSocket, if they can."""
        if self._settings.websocket is None:
            return None
        return f"ws://{_connectable(self._settings.websocket[0])}:{self.websocket_port}"

    @property
    def pid(self) -> int:
        """The process id. Raises `ServerUnusable` before the start."""
        if self._process is None:
            raise ServerUnusable("the NATS server was not started")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """The server's own log."""
        return self._settings.directory / "nats.log"

    async def start(self) -> None:
        """Start the server and return when it takes connections. Raises `ServerUnusable`."""
        binary = find_binary(self._settings.binary)
        # Beside the start, which does not take longer.
        checking = asyncio.create_task(check_version(binary), name="NATS server's version")
        try:
            try:
                await self._start(binary)
            except (ServerUnusable, OSError):
                await checking  # if it is too old, or no NATS server at all, this says so
                raise
            await checking
        except BaseException:
            checking.cancel()
            self.kill()
            await asyncio.wait({checking})
            raise

    async def _start(self, binary: Path) -> None:
        await self._end_orphan()
        log_start = self._log_read = self._prepare()
        self._write_failed = self._told_full = False
        with self._startup_log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                str(binary),
                "--config",
                str(self._config_path),
                stdin=asyncio.subprocess.DEVNULL,
                # It logs to a file: an undrained pipe would stall it. What it says before that, it says here.
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=die_with_parent(timer_slack_s=_TIMER_SLACK_S),
                start_new_session=True,  # Ctrl-C at the terminal is for its parent, which stops it in order.
            )
        await self._wait_until_ready(log_start)

    async def wait(self) -> int:
        """Wait until the process ends; its exit status."""
        if self._process is None:
            raise ServerUnusable("the NATS server was not started")
        return await self._process.wait()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Ask it to stop, and kill it when it does not within `grace_s`."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def needs_restart(self) -> bool:
        """Whether the server will not store again until it is started anew, and starting it can help now.

        After a write that failed (a full disk) a stream stays silent for good, also when there is room again.
        """
        self._look_for_failed_writes()
        if not self._write_failed:
            return False
        room = shutil.disk_usage(self._settings.directory).free
        if room < _ROOM_BYTES and not self._told_full:
            self._told_full = True
            logger.error(
                "The disk of %s is full: nothing can be stored. Make room; the NATS server starts again then.",
                self._settings.directory,
                extra={"action": "disk_full", "path": str(self._settings.directory)},
            )
        return room >= _ROOM_BYTES

    def _look_for_failed_writes(self) -> None:
        with contextlib.suppress(OSError), self.log_path.open("rb") as file:
            # The server starts a new file when this one is large.
            file.seek(self._log_read if self._log_read <= self.log_path.stat().st_size else 0)
            new = file.read()
            self._log_read = file.tell()
            self._write_failed = self._write_failed or _WRITE_FAILED.search(new) is not None

    @property
    def _config_path(self) -> Path:
        return self._settings.directory / "nats.conf"

    @property
    def _startup_log(self) -> Path:
        return self._settings.directory / "nats-start.log"

    @property
    def _ports_dir(self) -> Path:
        return self._settings.directory / "ports"

    @property
    def _server_name(self) -> str:
        return f"headrace-{self._settings.accounts.system_account[:16]}"

    def _prepare(self) -> int:
        """Write the configuration; the place in the log where this start begins."""
        directory = self._settings.directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(self._ports_dir, ignore_errors=True)
            self._ports_dir.mkdir(mode=0o700)
            write_private(self._config_path, self._config())
            return self.log_path.stat().st_size if self.log_path.exists() else 0
        except OSError as error:
            raise ServerUnusable(
                f"the NATS server's directory {directory} cannot be written: {error.strerror or error};"
                " give --home a directory that you may write to"
            ) from error

    async def _end_orphan(self) -> None:
        """End a server that outlived its parent (it can, off Linux): two on one store would destroy it."""
        pid = self._orphan()
        if pid is None:
            return
        logger.warning(
            "A NATS server of this home still runs as process %d; ending it.",
            pid,
            extra={"action": "nats_orphan_ended", "pid": pid},
        )
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            for _ in range(100):
                if self._orphan() is None:
                    return
                await asyncio.sleep(0.02)

    def _orphan(self) -> int | None:
        try:
            pid = int((self._settings.directory / "nats.pid").read_text())
            # The number may be somebody else's by now: only the command line tells.
            command = subprocess.run(
                ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=5
            ).stdout
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None
        return pid if str(self._config_path) in command else None

    def _config(self) -> str:
        settings, accounts = self._settings, self._settings.accounts
        store: dict[str, Any] = {"store_dir": str(settings.directory / "jetstream")}
        # Streams reserve their upper limits against this figure, and a small disk must not refuse streams that may
        # never grow so far; so it is no less than what they may want together.
        store["max_file_store"] = settings.max_store_bytes or max(shutil.disk_usage(settings.directory).total, TIB)
        if not settings.relaxed:
            store["sync_interval"] = "always"
        config: dict[str, Any] = {
            "server_name": self._server_name,
            "host": settings.host,
            "port": self.port or -1,
            "ports_file_dir": str(self._ports_dir),
            "pid_file": str(settings.directory / "nats.pid"),
            "log_file": str(self.log_path),
            "logfile_size_limit": _LOG_BYTES,
            "logfile_max_num": 3,
            "max_payload": settings.max_payload,
            "max_pending": max(128 * 1024 * 1024, 16 * settings.max_payload),
            "jetstream": store,
            "operator": accounts.operator_jwt,
            "system_account": accounts.system_account,
            "resolver": "MEMORY",
            "resolver_preload": accounts.jwts,
        }
        if settings.websocket is not None:
            host = settings.websocket[0]
            config["websocket"] = {"host": host, "port": self.websocket_port or -1, "no_tls": True}
        # NATS reads JSON; its own form is a superset.
        return json.dumps(config, indent=1)

    async def _wait_until_ready(self, log_start: int) -> None:
        try:
            async with asyncio.timeout(self._settings.start_within_s):
                while not await self._is_ready():
                    if self._process is not None and self._process.returncode is not None:
                        raise self._failure(log_start)
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise ServerUnusable(
                f"the NATS server did not answer within {self._settings.start_within_s:g} s;"
                f" its log is {self.log_path}{self._last_lines(log_start)}"
            ) from None

    async def _is_ready(self) -> bool:
        self.port = self.port or self._reported_port("nats")
        if self._settings.websocket is not None:
            self.websocket_port = self.websocket_port or self._reported_port("websocket")
            if not self.websocket_port:
                return False
        if not self.port:
            return False
        try:
            reader, writer = await asyncio.open_connection(_connectable(self._settings.host), self.port)
        except OSError:
            return False
        try:
            # Something that says nothing may sit there instead; our server meanwhile gives up, which is looked at next.
            greeting = await asyncio.wait_for(reader.readline(), _GREETING_WITHIN_S)
        except (OSError, ValueError, TimeoutError):
            return False
        finally:
            writer.close()
        # Somebody else's server may sit on the port; ours is then about to give up.
        return greeting.startswith(b"INFO ") and f'"server_name":"{self._server_name}"'.encode() in greeting

    def _reported_port(self, kind: str) -> int:
        """The port that the server chose, or 0 while it has not said so."""
        for path in self._ports_dir.glob("*.ports"):
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                return int(str(json.loads(path.read_text())[kind][0]).rsplit(":", 1)[1])
        return 0

    def _failure(self, log_start: int) -> ServerUnusable:
        lines = self._last_lines(log_start)
        if "address already in use" in lines and "websocket" in lines.lower():
            return ServerUnusable(
                f"port {self.websocket_port} is in use, so the NATS server cannot take WebSockets there; stop what uses"
                " it, or choose another with --nats-websocket"
            )
        if "address already in use" in lines:
            return ServerUnusable(
                f"port {self.port} on {self._settings.host} is in use, so the NATS server cannot listen there;"
                " stop what uses it, or choose another with --nats-port (0 takes a free one)"
            )
        status = self._process.returncode if self._process is not None else None
        return ServerUnusable(
            f"the NATS server ended at its start (status {status}); its log is {self.log_path}{lines}"
        )

    def _last_lines(self, log_start: int) -> str:
        text = ""
        for path, start in ((self._startup_log, 0), (self.log_path, log_start)):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(start)
                text += file.read(64 * 1024).decode(errors="replace")
        lines = text.strip().splitlines()[-5:]
        return ":\n  " + "\n  ".join(lines) if lines else ""


def _connectable(host: str) -> str:
    """A host to connect to for a host to listen on."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
