"""How a pool asks the service: its grant, and the code of functions."""

from __future__ import annotations

import base64
import platform
import socket
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID

from headrace.bus.functions.code import FunctionCode
from headrace.bus.light_httpx import httpx
from headrace.bus.network import DIRECT, Network
from headrace.bus.tasks.bundles import WIRE_VERSION, FunctionUse
from headrace.endpoint.errors import RegistrationRefused, ServiceAway
from headrace.endpoint.grant import PoolGrant

_TIMEOUT_S = 10.0


class HttpPoolService:
    """The service behind `url`; the endpoint's token is read from its file at each grant, so it can be replaced."""

    def __init__(self, url: str, *, endpoint: UUID, pool: str, token_path: Path, network: Network = DIRECT) -> None:
        self._base = f"{url.rstrip('/')}/api/v1/endpoints/{endpoint}/pools"
        self._pool = pool
        self._token_path = token_path
        self._client = httpx.Client(timeout=_TIMEOUT_S, **network.http_options(url))
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def grant_pool(self) -> PoolGrant:
        """A fresh grant. Raises `ServiceAway` and `RegistrationRefused`."""
        token = self._token_path.read_text(encoding="utf-8").strip()
        return PoolGrant.of_document(
            self._ask(
                "POST",
                self._base,
                token,
                json={
                    "pool": self._pool,
                    "python_version": platform.python_version(),
                    "headrace_version": version("headrace"),
                    "host": socket.gethostname(),
                    "protocol": WIRE_VERSION,
                    "lanes": True,
                },
            )
        )

    def fetch_code(self, grant: PoolGrant, use: FunctionUse, principal: str) -> FunctionCode:
        """The code of a function that the pool was sent a task for. Raises `ServiceAway`, `RegistrationRefused`."""
        document = self._ask(
            "GET",
            f"{self._base}/{self._pool}/code/{use.id}",
            grant.code_token,
            params={
                "principal": principal,
                "grant": base64.b64encode(use.grant).decode(),
                "grant_expires": str(use.grant_expires),
            },
        )
        return FunctionCode(
            name=document["name"],
            source=document.get("source") or "",
            pickled=base64.b64decode(document.get("pickled") or ""),
            entry_point=document.get("entry_point") or "",
            python_version=document["python_version"],
            modules=base64.b64decode(document.get("modules") or ""),
            requirements=list(document.get("requirements") or ()),
            requires_python=document.get("requires_python") or "",
            owner=document.get("owner") or "",
        )

    def _ask(self, method: str, url: str, token: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, url, headers={"Authorization": f"Bearer {token}"}, **options)
        except httpx.HTTPError as error:
            raise ServiceAway(
                f"the service at {self._base} does not answer: {error or type(error).__name__}"
            ) from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise ServiceAway(f"the service answers {answer.status_code}: {_detail(answer)}")
        if answer.status_code >= 400:
            raise RegistrationRefused(_detail(answer), status=answer.status_code)
        document: dict[str, Any] = answer.json()
        return document


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
