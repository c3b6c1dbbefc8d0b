"""A real service for tests: a nats-server process, and the service under uvicorn on a thread with a loop of its own.

with running_service(tmp_path) as service:
    httpx.get(f"{service.url}/healthz")
    service.http().get("/api/v1/functions")      # as the administrator
    service.http(service.add_user("ada"))        # as somebody else
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
from described import check_described
from plain_http import NO_TLS

from headrace.action_provider import ServiceSettings, serve_async
from headrace.action_provider.providers import PROVIDERS, Registry
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection

T = TypeVar("T")

_WITHIN_S = 20.0


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="test loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], within_s: float = _WITHIN_S) -> T:
        """The result of a coroutine that runs there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(within_s)

    def close(self) -> None:
        """End the loop and its thread."""
        # What was spawned and is not awaited must not be destroyed while it is pending.
        self.run(_finish_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_WITHIN_S)
        self.loop.close()

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


async def _finish_tasks() -> None:
    # One that ends may begin another.
    deadline = time.monotonic() + 5
    while (others := asyncio.all_tasks() - {asyncio.current_task()}) and time.monotonic() < deadline:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=1)


@dataclass
class RunningService:
    """A service that answers at `url`; `token` is its administrator's."""

    url: str
    token: str
    home: Path
    keys_dir: Path
    nats: NatsServer
    loop: Loop
    settings: ServiceSettings
    _serving: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)
    _clients: list[httpx.Client] = field(default_factory=list)
    providers: Registry = PROVIDERS

    def http(self, token: str | None = None) -> httpx.Client:
        """A client with a token (the administrator's by default; "" for none). Closed with the service."""
        token = self.token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=_WITHIN_S,
            trust_env=False,
            event_hooks={"response": [check_described]},
            verify=NO_TLS,
        )
        self._clients.append(client)
        return client

    def add_user(self, name: str, groups: tuple[str, ...] = ()) -> str:
        """A new user; gives a token for it."""
        admin = self.http()
        _good(admin.post("/api/v1/users", json={"name": name, "groups": list(groups)}))
        return str(_good(admin.post("/api/v1/tokens", json={"user": name}))["token"])

    def add_endpoint(self, name: str = "here", token: str | None = None, **more: Any) -> tuple[str, str]:
        """A new endpoint of a user's (the administrator's by default): its id and its token."""
        answer = _good(self.http(token).post("/api/v1/endpoints", json={"name": name, **more}))
        return str(answer["endpoint_id"]), str(answer["endpoint_token"])

    def add_function(self, source: str = "def f(x):\n    return x\n", name: str = "f", **more: Any) -> str:
        """A new function of the administrator's: its id."""
        body = {"name": name, "source": source, "python_version": "3.11.0", **more}
        return str(_good(self.http().post("/api/v1/functions", json=body))["function_id"])

    def bus(self, work: Any, within_s: float = _WITHIN_S) -> Any:
        """`await work(connection)` with a connection of the service's own account."""

        async def connected() -> Any:
            keys = ServiceKeys.load(self.keys_dir)
            async with Connection([self.nats.url], keys.core, name="test") as connection:
                return await work(connection)

        return self.loop.run(connected(), within_s)

    def stop_serving(self) -> None:
        """Stop the service; the bus stays."""
        self._serving.close()

    def serve_again(self) -> None:
        """Start the service where it was."""
        settings = dataclasses.replace(self.settings, port=httpx.URL(self.url).port or 0)
        self._serving.enter_context(serving(self.loop, settings, self.providers))

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def running_service(directory: Path, *, relaxed: bool = True, **changes: Any) -> Iterator[RunningService]:
    """Start a NATS server and a service in `directory`; `changes` are fields of `ServiceSettings`, `max_payload` or
    `websocket` of the NATS server, or `providers` in place of the service's own."""
    home, keys_dir = directory / "home", directory / "home" / "keys"
    home.mkdir(parents=True, exist_ok=True)
    operator = Operator.open(keys_dir)
    loop = Loop()
    providers = changes.pop("providers", PROVIDERS)
    server = {name: changes.pop(name) for name in ("max_payload", "websocket") if name in changes}
    accounts = operator.accounts()
    nats = NatsServer(ServerSettings(accounts=accounts, directory=home / "nats", relaxed=relaxed, **server))
    try:
        loop.run(nats.start())
        settings = ServiceSettings(
            **{"home": home, "keys_dir": keys_dir, "nats_url": nats.url, "drain_s": 1.0, **changes}
        )
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(serving(loop, settings, providers))
            token = (home / "admin.token").read_text().strip()
            service = RunningService(url, token, home, keys_dir, nats, loop, settings, stack, providers=providers)
            try:
                yield service
            finally:
                service.close()
    finally:
        loop.run(nats.stop())
        loop.close()


@contextlib.contextmanager
def serving(loop: Loop, settings: ServiceSettings, providers: Registry = PROVIDERS) -> Iterator[str]:
    """One service process's worth of service, on this loop; gives its URL. Ended in order."""
    serving = loop.run(_start(settings, providers))
    try:
        yield loop.run(serving.answering())
    finally:
        loop.run(serving.stop())


class _Serving:
    def __init__(self, settings: ServiceSettings, providers: Registry) -> None:
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        work = serve_async(settings, on_ready=self._ready.set_result, providers=providers)
        self._task = asyncio.create_task(work, name="service")

    async def answering(self) -> str:
        """The URL, once it answers. Raises what kept the service from starting."""
        await asyncio.wait((self._ready, self._task), return_when=asyncio.FIRST_COMPLETED)
        return self._ready.result() if self._ready.done() else await self._stopped()

    async def stop(self) -> None:
        """Stop it and wait until it has let go of everything."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _stopped(self) -> str:
        await self._task
        raise RuntimeError("the service ended before it answered")


async def _start(settings: ServiceSettings, providers: Registry) -> _Serving:
    return _Serving(settings, providers)


def _good(response: httpx.Response) -> dict[str, Any]:
    assert response.is_success, response.text
    document: dict[str, Any] = response.json()
    return document
