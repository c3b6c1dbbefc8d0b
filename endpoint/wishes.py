"""Which pools the service wants of this manager, and what the manager answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from uuid import UUID

from headrace.bus.light_httpx import httpx
from headrace.bus.network import DIRECT, Network
from headrace.endpoint.errors import RegistrationRefused, ServiceAway

logger = logging.getLogger(__name__)

State = Literal["starting", "running", "waiting", "stopped", "failed"]

_WAIT_S = 55.0
_TIMEOUT_S = 15.0
_RETRY_S = 1.0
_MOST_TEXT = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """That a pool is wanted. `number` grows with each time that it is wanted anew."""

    pool: str
    principal: str
    options: Mapping[str, Any]
    environment: str
    runtime: Mapping[str, str]
    number: int
    token: str = field(repr=False)
    accounts: Mapping[str, str] = field(default_factory=dict)
    """User names of the principal's accounts at another system, by their URNs."""

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Wish:
        """Read one of the pools in the service's answer."""
        return cls(
            pool=document["pool"],
            principal=document["principal"],
            options=document["user_endpoint_config"],
            environment=document["environment"],
            runtime=document["runtime"],
            number=document["wanted"],
            token=document["pool_token"],
            accounts=document.get("accounts") or {},
        )


class WishClient:
    """The service, as long as it takes to answer. `token` gives the endpoint's token of the moment."""

    def __init__(
        self, url: str, *, endpoint: UUID, manager: str, token: Callable[[], str], network: Network = DIRECT
    ) -> None:
        self._manager = manager
        self._token = token
        self._client = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/api/v1/endpoints/{endpoint}",
            timeout=_TIMEOUT_S,
            **network.http_options(url),
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, url: str, *, endpoint: UUID, manager: str, token: Callable[[], str], network: Network = DIRECT
    ) -> AsyncIterator[Self]:
        """A client; its connections are closed at the end."""
        client = cls(url, endpoint=endpoint, manager=manager, token=token, network=network)
        try:
            yield client
        finally:
            await client._client.aclose()

    async def wanted(self, *, restarted: bool) -> list[Wish]:
        """The pools that are wanted and not answered for; waits a while until there is one.

        Raises `ServiceAway` and `RegistrationRefused`.
        """
        query = {"manager": self._manager, "wait": f"{_WAIT_S:g}s", **({"restarted": "true"} if restarted else {})}
        answer = await self._ask("GET", "/wanted-pools", params=query, timeout=_WAIT_S + _TIMEOUT_S)
        return [Wish.of_document(each) for each in answer["pools"]]

    async def report(self, pool: str, number: int, state: State, problem: str, code: str = "") -> None:
        """Say what became of a pool. Raises `ServiceAway` and `RegistrationRefused`."""
        body = {"manager": self._manager, "state": state, "answers": number, "problem": problem[:_MOST_TEXT] or None}
        if code:
            body["code"] = code
        await self._ask("POST", f"/pools/{pool}/reports", json=body)

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            headers = {"Authorization": f"Bearer {self._token()}"}
            answer = await self._client.request(method, path, headers=headers, **options)
        except httpx.HTTPError as error:
            raise ServiceAway(f"the service does not answer: {error or type(error).__name__}") from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise ServiceAway(f"the service answers {answer.status_code}")
        if not answer.is_success:
            raise RegistrationRefused(f"{method} {path}: HTTP {answer.status_code}", status=answer.status_code)
        try:
            document: dict[str, Any] = answer.json() if answer.content else {}
        except (ValueError, RecursionError) as error:
            # A page of a proxy, say.
            raise ServiceAway(f"the service's answer cannot be read: {error}") from error
        return document


class Reports:
    """What is to be said of pools: for each the latest state, until the service has it."""

    def __init__(self, client: WishClient) -> None:
        self._client = client
        self._due: dict[str, tuple[int, State, str, str]] = {}
        self._wake = asyncio.Event()
        self._told = asyncio.Event()
        self._told.set()

    def tell(self, pool: str, number: int, state: State, problem: str = "", code: str = "") -> None:
        """Say this soon, in the place of what was to be said of the pool before."""
        self._due.pop(pool, None)
        self._due[pool] = (number, state, problem, code)
        self._told.clear()
        self._wake.set()

    async def all_told(self) -> None:
        """Wait until the service knows everything."""
        await self._told.wait()

    async def run(self) -> None:
        """Tell it, for ever again while the service is away. Ends only when cancelled."""
        while True:
            while self._due:
                pool = next(iter(self._due))
                report = self._due[pool]
                try:
                    await self._client.report(pool, *report)
                except ServiceAway as error:
                    logger.info("The state of a pool is told later: %s", error, extra={"action": "report_delayed"})
                    await asyncio.sleep(_RETRY_S)
                    continue
                except RegistrationRefused as error:
                    # Nobody knows the pool any more, or not us.
                    logger.info("The state of a pool is not taken: %s", error, extra={"action": "report_refused"})
                    # What is not answered is wished again at once.
                    await asyncio.sleep(_RETRY_S)
                if self._due.get(pool) is report:
                    del self._due[pool]
            self._told.set()
            await self._wake.wait()
            self._wake.clear()
