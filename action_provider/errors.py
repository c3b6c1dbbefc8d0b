"""Errors of the HTTP service, and the one place where errors become answers.

ServiceError            an answer that is an error; `status` is the HTTP status
├── MalformedRequest    400: not JSON, or not readable as what it should be
├── Unauthenticated     401: no token, an unknown one, or one that has expired
├── Forbidden           403: known, but not allowed
│   ├── ConsentRequired    the caller has to agree to something first; says to which scope
│   └── PolicyUnmet        the endpoint asks for another way of signing in; says which
├── NotFound            404: not there, or not for the caller's eyes
├── MethodNotAllowed    405
├── RequestTimeout      408: the body did not arrive in time
├── Conflict            409: it contradicts what is there
│   └── ProtocolMismatch   the client speaks another version of the protocol
├── BodyTooLarge        413, `PayloadTooLarge`: says the limit
├── AddressTooLong      414
├── UnsupportedMediaType   415
├── InvalidRequest      422: readable, but not what it must be; says where
├── Unavailable         503: the bus, or a part behind it, does not answer now
└── ServiceUnusable     the service cannot start (no HTTP status)

Every answer has one shape: `{"code", "detail", "errors": [{"pointer", "problem"}]}`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from headrace.bus.errors import (
    ArgumentNotSerialisable,
    BusError,
    BusMissing,
    BusUnavailable,
    EnvironmentUnusable,
    EventUnfit,
    FilterInvalid,
    ObjectDamaged,
    ObjectMissing,
    PayloadTooLarge,
    PoolFailed,
    PublishingForbidden,
    QueueFull,
    RecordConflict,
    RecordMissing,
    StreamFull,
    StreamMissing,
    SubmissionRefused,
)
from headrace.schemas import HeadraceError, SchemaViolation, Violation

logger = logging.getLogger(__name__)


class ServiceError(HeadraceError):
    """Raised to answer a request with an error. The text is for the caller's eyes."""

    code = "ServiceError"
    status: ClassVar[int] = 500

    def __init__(
        self, detail: str, *, violations: tuple[Violation, ...] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        self.detail = detail
        self.violations = violations
        self.headers = dict(headers or {})
        super().__init__(detail)

    @property
    def more(self) -> dict[str, Any]:
        """What a program may want to know of it, besides the code."""
        return {}


class MalformedRequest(ServiceError):
    """Raised when a request cannot be read at all."""

    code = "MalformedRequest"
    status = 400


class Unauthenticated(ServiceError):
    """Raised when a request carries no token, an unknown one, or one that has expired."""

    code = "Unauthenticated"
    status = 401

    def __init__(self, detail: str, *, problem: str = "") -> None:
        challenge = 'Bearer realm="headrace"' + (f', error="{problem}"' if problem else "")
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(ServiceError):
    """Raised when the caller may see a thing, but not do this to it."""

    code = "Forbidden"
    status = 403


class ConsentRequired(Forbidden):
    """Raised when something can be answered only once the caller has agreed to it at Globus Auth.

    `required_scope` is the scope to agree to. An action that meets it can wait, INACTIVE, with `action_details`: after
    a `resume` with a new token it may go on.
    """

    code = "ConsentRequired"

    def __init__(self, detail: str, *, required_scope: str) -> None:
        self.required_scope = required_scope
        super().__init__(detail)

    @property
    def more(self) -> dict[str, Any]:
        """What a program needs in order to ask for the consent, in both forms that Globus' clients know."""
        parameters = {"required_scopes": [self.required_scope], "session_message": self.detail}
        return {"required_scope": self.required_scope, "authorization_parameters": parameters}

    @property
    def action_details(self) -> dict[str, Any]:
        """The `details` of an action that waits for the consent."""
        return {"code": self.code, "description": self.detail, **self.more}


class PolicyUnmet(Forbidden):
    """Raised when an endpoint's authentication policy is not met; `parameters` say how to sign in so that it is."""

    code = "PolicyUnmet"

    def __init__(self, detail: str, *, parameters: Mapping[str, Any]) -> None:
        self.parameters = dict(parameters)
        super().__init__(detail)

    @property
    def more(self) -> dict[str, Any]:
        """What a program needs in order to have the caller sign in again."""
        return {"authorization_parameters": {**self.parameters, "session_message": self.detail}}


class NotFound(ServiceError):
    """Raised when a thing is not there, or not for the caller's eyes."""

    code = "NotFound"
    status = 404


class MethodNotAllowed(ServiceError):
    """Raised when a path exists, but not with this method."""

    code = "MethodNotAllowed"
    status = 405


class RequestTimeout(ServiceError):
    """Raised when a request's body did not arrive in time."""

    code = "RequestTimeout"
    status = 408


class Conflict(ServiceError):
    """Raised when a request contradicts what is there."""

    code = "Conflict"
    status = 409


class ProtocolMismatch(Conflict):
    """Raised when a client speaks another version of the protocol than this service."""

    code = "ProtocolMismatch"


class BodyTooLarge(ServiceError):
    """Raised when a body, or the message that it makes, is larger than the limit, which the detail says."""

    code = PayloadTooLarge.code
    status = 413


class AddressTooLong(ServiceError):
    """Raised when path and query are longer than the limit."""

    code = "AddressTooLong"
    status = 414


class UnsupportedMediaType(ServiceError):
    """Raised when a body is of another media type than the operation takes."""

    code = "UnsupportedMediaType"
    status = 415


class InvalidRequest(ServiceError):
    """Raised when a request can be read, but is not what it must be."""

    code = "InvalidRequest"
    status = 422


def refused(pointer: str, problem: str) -> InvalidRequest:
    """The refusal of one place of a request: `/field` of its body, or `?parameter` of its query."""
    return InvalidRequest(f"{pointer[1:]}: {problem}", violations=(Violation(pointer=pointer, problem=problem),))


class Unavailable(ServiceError):
    """Raised when something behind the service does not answer now."""

    code = "Unavailable"
    status = 503

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


class ServiceUnusable(HeadraceError):
    """Raised when the service cannot start: its port is taken, its keys or the bus are not there."""

    code = "ServiceUnusable"


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as it is sent."""

    status: int
    code: str
    detail: str
    violations: tuple[Violation, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    """What a program may want to know of it, besides the code."""

    def body(self) -> dict[str, Any]:
        """The one shape of errors."""
        errors = [{"pointer": v.pointer, "problem": v.problem} for v in self.violations]
        return {"code": self.code, "detail": self.detail, "errors": errors, **self.more}


def answer_to(error: Exception, *, route: str) -> Answer:  # noqa: PLR0911, PLR0912  # one case per kind of error
    """What to answer when a handler raised `error`. What is not meant for the caller is logged and goes no further."""
    match error:
        case ServiceError():
            return Answer(error.status, error.code, error.detail, error.violations, error.headers, error.more)
        case SchemaViolation():
            detail = f"the request does not fit the schema {error.schema!r}; see `errors`, and /schemas/{error.schema}"
            return Answer(422, "InvalidRequest", detail, error.violations)
        case FilterInvalid():
            return Answer(422, error.code, str(error), (Violation(pointer=error.pointer, problem=str(error)),))
        case BusUnavailable() | StreamMissing():
            logger.warning("The bus did not answer %s: %s", route, error, extra={"action": "bus_unavailable"})
            detail = "the message bus does not answer at this moment; try again shortly"
            return Answer(503, "BusUnavailable", detail, headers={"Retry-After": "1"})
        case TimeoutError():
            logger.warning("%s took too long and was given up.", route, extra={"action": "request_given_up"})
            detail = "this took longer than the service waits; try again shortly"
            return Answer(503, "Unavailable", detail, headers={"Retry-After": "1"})
        case StreamFull():
            logger.error("The store is full: %s", error, extra={"action": "store_full"})
            detail = "the store is full; nothing was stored. Try again once its administrator has made room"
            return Answer(507, error.code, detail, headers={"Retry-After": "30"})
        case QueueFull():
            numbers = {"limit": error.limit, "used": error.used}
            return Answer(429, error.code, str(error), headers={"Retry-After": "1"}, more=numbers)
        case PayloadTooLarge():
            limit = f"{error.limit} bytes" if error.limit else "the bus's limit"
            return Answer(413, error.code, f"this makes a message of {error.size} bytes; at most {limit} can be stored")
        case EventUnfit():
            return Answer(422, error.code, f"{error}; see `errors`", error.violations)
        case BusMissing():
            return Answer(404, "NotFound", str(error))
        case PublishingForbidden():
            return Answer(403, "Forbidden", str(error))
        case PoolFailed():
            return Answer(
                422, error.code, str(error), (Violation(pointer="/user_endpoint_config", problem=str(error)),)
            )
        case ArgumentNotSerialisable() | ObjectDamaged() | EnvironmentUnusable():
            return Answer(422, error.code, str(error))
        case ObjectMissing():
            return Answer(404, error.code, str(error))
        case SubmissionRefused():
            return Answer(409, error.code, str(error))
        case RecordMissing():
            return Answer(404, "NotFound", str(error))
        case RecordConflict():
            return Answer(409, "Conflict", "somebody else changed this at the same moment; read it again and repeat")
        case _:
            return _unexpected(error, route)


def _unexpected(error: Exception, route: str) -> Answer:
    incident = uuid.uuid4().hex[:12]
    kind = "The bus refused" if isinstance(error, BusError) else "An unexpected error ended"
    logger.error("%s %s (incident %s).", kind, route, incident, exc_info=error, extra={"action": "request_failed"})
    return Answer(500, "InternalError", f"an unexpected error; the service's log has it as incident {incident}")
