"""How a pool moves large payloads: by HTTP, piece by piece, through the service. The calls block."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Protocol
from uuid import UUID

from headrace.bus.data.payloads import Part
from headrace.bus.light_httpx import httpx
from headrace.bus.names import Address
from headrace.bus.network import DIRECT, Network
from headrace.endpoint.errors import RegistrationRefused, ServiceAway

PIECE_BYTES: Final = 1024 * 1024
_TIMEOUT_S = 60.0


class Reception:
    """What has come of an object so far, so that a broken download goes on where it was."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = 0
        self.given_up = False
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """The digest of what has come."""
        return self._digest.digest()

    def write(self, piece: bytes) -> None:
        """Take the next piece. Raises `OSError`."""
        if self.given_up:
            raise ServiceAway("the pool is stopping")
        self._digest.update(piece)
        self.file.write(piece)
        self.size += len(piece)


class ObjectService(Protocol):
    """What an agent asks about large payloads. Raises `ServiceAway` when asking again may help, `RegistrationRefused`
    when it will not."""

    def download(self, token: str, part: Part, address: Address, reception: Reception) -> None: ...

    def missing(self, token: str, parts: list[Part], address: Address) -> list[str]: ...

    def upload(self, token: str, part: Part, address: Address, path: Path) -> None: ...


class HttpObjectService:
    """The service behind `url`; `token` is the pool's code token."""

    def __init__(self, url: str, *, endpoint: UUID, pool: str, network: Network = DIRECT) -> None:
        self._base = f"{url.rstrip('/')}/api/v1/endpoints/{endpoint}/pools/{pool}"
        self._client = httpx.Client(timeout=_TIMEOUT_S, **network.http_options(url))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def download(self, token: str, part: Part, address: Address, reception: Reception) -> None:
        """Fetch what has not come yet of an argument."""
        headers = _headers(token)
        if reception.size:
            headers["Range"] = f"bytes={reception.size}-"
        try:
            with self._client.stream("GET", self._url(part), params=_query(address), headers=headers) as answer:
                _check(answer, None if answer.is_success else answer.read())
                for piece in answer.iter_raw(PIECE_BYTES):
                    reception.write(piece)
        except httpx.HTTPError as error:
            raise _away(self._base, error) from error

    def missing(self, token: str, parts: list[Part], address: Address) -> list[str]:
        """Note that results of a bundle consist of these objects; those of them that have to be uploaded."""
        body = {
            "principal": address.principal,
            "task_group_id": str(address.group),
            "bundle_id": str(address.bundle),
            "objects": [part.digest for part in parts],
        }
        try:
            answer = self._client.post(f"{self._base}/object-uses", json=body, headers=_headers(token))
        except httpx.HTTPError as error:
            raise _away(self._base, error) from error
        _check(answer, answer.content)
        missing: list[str] = answer.json()["missing"]
        return missing

    def upload(self, token: str, part: Part, address: Address, path: Path) -> None:
        """Store a result. Raises `OSError` when its file cannot be read."""
        headers = {**_headers(token), "Content-Length": str(part.size)}
        try:
            with path.open("rb") as file:
                answer = self._client.put(
                    self._url(part), params=_query(address), headers=headers, content=pieces_of(file)
                )
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise _away(self._base, error) from error
        _check(answer, answer.content)

    def _url(self, part: Part) -> str:
        return f"{self._base}/objects/{part.digest}"


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """The content of a file, piece by piece."""
    while piece := file.read(PIECE_BYTES):
        yield piece


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _query(address: Address) -> dict[str, str]:
    return {"principal": address.principal, "bundle": str(address.bundle)}


def _away(base: str, error: Exception) -> ServiceAway:
    return ServiceAway(f"the service at {base} does not answer: {error or type(error).__name__}")


def _check(answer: httpx.Response, content: bytes | None) -> None:
    if answer.is_success:
        return
    try:
        detail = str(answer.json()["detail"]) if content else answer.reason_phrase
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    # 401: the pool's session is renewed at half of its life, so the next try has a token that is good.
    if answer.status_code >= 500 or answer.status_code in (401, 408, 429):
        raise ServiceAway(f"the service answers {answer.status_code}: {detail}")
    raise RegistrationRefused(detail, status=answer.status_code)
