"""What the answers of the service mean: documents, or errors."""

from __future__ import annotations

from typing import Any, Final

from headrace.bus.hosts import is_loopback
from headrace.bus.light_httpx import httpx
from headrace.schemas import Violation
from headrace.sdk.errors import (
    ClientError,
    EnvironmentUnusable,
    Forbidden,
    NotFound,
    PoolFailed,
    ProtocolMismatch,
    QueueFull,
    RequestRefused,
    ServiceUnavailable,
    ServiceUnreachable,
    TaskError,
    Unauthorized,
)

_REFUSALS: Final = {401: Unauthorized, 403: Forbidden, 404: NotFound}


def document_in(response: httpx.Response) -> Any:
    """The JSON of an answer. Raises `ClientError`."""
    try:
        return response.json()
    except ValueError as error:
        raise ClientError(
            f"{response.request.method} {response.request.url} was answered, but not with JSON: "
            f"is this the URL of a Headrace service?"
        ) from error


def refusal(response: httpx.Response, url: str) -> ClientError | TaskError:
    """The error that an answer other than 2xx means."""
    body = _error_body(response)
    code, detail = _code_and_detail(response, body)
    if code == "ProtocolMismatch":
        return ProtocolMismatch(detail)
    if code == QueueFull.code:
        numbers = {name: body[name] for name in ("limit", "used") if isinstance(body.get(name), int)}
        return QueueFull(detail, **numbers)
    if code in (PoolFailed.code, EnvironmentUnusable.code):
        return PoolFailed(detail) if code == PoolFailed.code else EnvironmentUnusable(detail)
    if response.status_code >= 500:
        return ServiceUnavailable(
            f"the service at {url} cannot work now: {detail} ({code}, HTTP {response.status_code})",
            status=response.status_code,
        )
    if response.status_code == 401:
        detail = (
            f"{detail}; the token for {url} is wrong, withdrawn or expired: "
            f"run `headrace login --url {url}` with a new one"
        )
    kind = _REFUSALS.get(response.status_code, RequestRefused)
    return kind(response.status_code, code, detail, _violations(body), body)


def unreachable(error: httpx.TransportError, request: httpx.Request, url: str) -> ServiceUnreachable:
    """The error that no answer, or a broken one, means."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        advice = "is `headrace up` running?" if is_loopback(request.url.host) else "check the URL and the network"
        if "WRONG_VERSION_NUMBER" in str(error):
            advice = "it does not speak TLS there: write http:// in place of https://, or another port"
        problem = f"the service at {url} cannot be reached: {error or type(error).__name__}; {advice}"
        return ServiceUnreachable(problem, was_sent=False)
    if isinstance(error, httpx.TimeoutException):
        problem = f"the service at {url} did not answer {request.method} {request.url.path} in time"
        return ServiceUnreachable(problem, timed_out=True)
    return ServiceUnreachable(f"the connection to the service at {url} broke: {error or type(error).__name__}")


def _error_body(response: httpx.Response) -> dict[str, Any]:
    """All that an error's answer says, where it is an object."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _code_and_detail(response: httpx.Response, body: dict[str, Any]) -> tuple[str, str]:
    fallback = response.reason_phrase or f"HTTP {response.status_code}"
    if not body:
        return "HttpError", f"{response.request.method} {response.request.url}: {fallback}"
    return str(body.get("code", "HttpError")), str(body.get("detail") or body.get("description") or fallback)


def _violations(body: dict[str, Any]) -> tuple[Violation, ...]:
    places = body.get("errors")
    return tuple(
        Violation(pointer=str(place.get("pointer", "")), problem=str(place.get("problem", "")))
        for place in (places if isinstance(places, list) else ())
        if isinstance(place, dict)
    )
