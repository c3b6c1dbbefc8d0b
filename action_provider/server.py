"""Running the service: one uvicorn server over one bus connection, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.action_provider import runtime
from headrace.action_provider.app import create_app, open_service
from headrace.action_provider.errors import ServiceUnusable
from headrace.action_provider.providers import PROVIDERS, Registry
from headrace.action_provider.settings import ServiceSettings
from headrace.action_provider.state import Service, State
from headrace.action_provider.whole_answers import WholeAnswers
from headrace.bus.installation.private_files import write_private

logger = logging.getLogger(__name__)

ADDRESS_FILE = "serving.json"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then end open requests within `drain_s`; a second signal ends them at once.

    Once it answers, `home/serving.json` says `{"url", "pid"}`; the file goes when the service stops. Raises
    `ServiceUnusable`, `KeysUnusable` or `BusError` when the service cannot start.
    """
    runtime.run(serve_async(settings))


async def serve_async(
    settings: ServiceSettings, *, on_ready: Callable[[str], None] | None = None, providers: Registry = PROVIDERS
) -> None:
    """`serve` inside a running loop; `on_ready` is given the URL once the service answers. Cancelling it stops it."""
    # The port first: finding it taken must not cost a connection to the bus.
    listener = bind(settings.host, settings.port) if settings.listen_fd is None else _inherited(settings.listen_fd)
    url = _url(settings.host, listener)
    settings = dataclasses.replace(settings, public_url=settings.public_url or url)
    with contextlib.closing(listener):
        async with open_service(settings, providers) as service:
            state: State = {"service": service}
            app = _with_state(create_app(settings, registry=providers), state)
            started = functools.partial(_answering, settings, url, on_ready)
            server = _Server(_config(app, settings), service, started)
            try:
                await _until_stopped(server, listener)
            finally:
                _remove_address(settings.home / ADDRESS_FILE)
    logger.info("The service has stopped.", extra={"action": "service_stopped"})


async def _until_stopped(server: uvicorn.Server, listener: socket.socket) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        # Cancelled from outside: the same orderly end as after a signal.
        server.should_exit = True
        await serving
        raise


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ServiceUnusable` with what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every connection: head and body of an answer are two writes, and without this the second one
        # waits 40 ms for the acknowledgement of the first. (The event loop does it only for sockets it made itself.)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ServiceUnusable(
            f"the service cannot listen on {host} port {port}: {reason}; stop what uses it, or choose another with"
            " --port (0 takes a free one)"
        ) from error
    return listener


def _inherited(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise ServiceUnusable(f"descriptor {descriptor} is not a listening socket: {error.strerror}") from error


class _Server(uvicorn.Server):
    """uvicorn with signals of our own (its own kill the process after a clean stop), and a word when it answers."""

    def __init__(self, config: uvicorn.Config, service: Service, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Whoever waits for a task answers now with what there is, so the drain is short.
        self._service.stopping.set()
        logger.info("Stopping: open requests may end.", extra={"action": "service_stopping"})
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def _config(app: ASGIApp, settings: ServiceSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",  # ours surrounds the server, so that its errors reach the caller as they are
        http=WholeAnswers,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing depends on how the caller came here
        # Longer than clients keep an idle connection, so that it is they who close it: a request that meets a closing
        # connection is lost.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        h11_max_incomplete_event_size=65_536,
    )


def _with_state(app: ASGIApp, state: State) -> ASGIApp:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {**state}
        await app(scope, receive, send)

    return application


def _answering(settings: ServiceSettings, url: str, on_ready: Callable[[str], None] | None) -> None:
    write_address(settings.home / ADDRESS_FILE, url)
    logger.info("The service answers at %s.", url, extra={"action": "service_started", "url": url})
    if on_ready is not None:
        on_ready(url)


def write_address(path: Path, url: str) -> None:
    """Say where the service is: whole, at once, for its owner's eyes."""
    write_private(path, json.dumps({"url": url, "pid": os.getpid()}) + "\n")


def _remove_address(path: Path) -> None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        # A successor may have written its own by now.
        if json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - compared, not bound
    return f"http://{here.get(host, f'[{host}]' if ':' in host else host)}:{port}"
