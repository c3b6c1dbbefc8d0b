"""What the manager of an endpoint asks of the service. The calls block, so the manager makes them in threads."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from headrace.bus.light_httpx import httpx
from headrace.bus.names import NEXT_SIGN_HEADER
from headrace.bus.network import DIRECT, Network
from headrace.endpoint.errors import RegistrationRefused, ServiceAway


class ServiceClient:
    """The service behind `url`. Raises `ServiceAway` when asking again may help, else `RegistrationRefused`."""

    def __init__(self, url: str, *, timeout_s: float = 10.0, network: Network = DIRECT) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=timeout_s, **network.http_options(self.url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def register(self, token: str, endpoint_id: UUID, settings: dict[str, Any]) -> str:
        """Register an endpoint of the token's holder under this id, again if need be; gives its own new token."""
        body = {**settings, "endpoint_id": str(endpoint_id)}
        answer = self._ask("POST", "/api/v1/endpoints", token, body)
        return str(answer["endpoint_token"])

    def change(self, token: str, endpoint_id: UUID, settings: dict[str, Any]) -> None:
        """Change name, sharing and allow list of an endpoint of the token's holder."""
        self._ask("PATCH", f"/api/v1/endpoints/{endpoint_id}", token, settings)

    def delete(self, token: str, endpoint_id: UUID) -> None:
        """Remove the endpoint."""
        self._ask("DELETE", f"/api/v1/endpoints/{endpoint_id}", token)

    def tell_presence(self, token: str, endpoint_id: UUID, said: Mapping[str, Any]) -> float | None:
        """Say that the endpoint is alive, what its pools do, and how busy this machine is.

        Gives how many seconds later the service would like to hear again; None when it does not say.
        """
        body = {
            "host": socket.gethostname(),
            "python_version": platform.python_version(),
            "headrace_version": importlib.metadata.version("headrace"),
            **said,
        }
        answer = self._request("PUT", f"/api/v1/endpoints/{endpoint_id}/presence", token, body)
        try:
            return float(answer.headers[NEXT_SIGN_HEADER])
        except (KeyError, ValueError):
            return None

    def end_presence(self, token: str, endpoint_id: UUID, manager: str) -> None:
        """Say that this manager of the endpoint stops."""
        self._ask("DELETE", f"/api/v1/endpoints/{endpoint_id}/presence?manager={manager}", token)

    def _ask(self, method: str, path: str, token: str, body: object = None) -> dict[str, Any]:
        answer = self._request(method, path, token, body)
        document: dict[str, Any] = answer.json() if answer.content else {}
        return document

    def _request(self, method: str, path: str, token: str, body: object) -> httpx.Response:
        try:
            answer = self._client.request(method, path, headers={"Authorization": f"Bearer {token}"}, json=body)
        except httpx.HTTPError as error:
            raise ServiceAway(f"the service at {self.url} does not answer: {error or type(error).__name__}") from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise ServiceAway(f"the service at {self.url} cannot work now: {_detail(answer)}")
        if not answer.is_success:
            raise RegistrationRefused(
                f"the service at {self.url} refused {method} {path}: {_detail(answer)}", status=answer.status_code
            )
        return answer


def _detail(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        places = "".join(f"; {each['pointer']}: {each['problem']}" for each in body.get("errors") or ())
        return f"{body['detail']}{places} (HTTP {answer.status_code})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{answer.reason_phrase} (HTTP {answer.status_code})"
