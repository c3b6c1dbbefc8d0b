"""Errors of the client.

HeadraceError
├── ClientError                 something about talking to the service
│   ├── NotConfigured           nobody said which service and which token
│   ├── TokenUnavailable        the function that gives the token did not
│   ├── ServiceUnreachable      no connection, or no answer within the time limit
│   ├── ServiceUnavailable      the service answers, but cannot work now (5xx)
│   ├── ProtocolMismatch        this SDK is newer or older than the service
│   ├── TaskPending             the task has no result yet
│   ├── QueueFull               there is no room for another task now
│   └── RequestRefused          the service refused the request (4xx)
│       ├── Unauthorized        the token is missing, wrong or expired (401)
│       ├── Forbidden           the token is good, but not for this (403)
│       └── NotFound            no such thing, or not for this token (404)
└── TaskError                   the outcome of a task that has no value; see `headrace.bus.errors`
    ├── TaskFailed              the function raised, and its own type cannot be raised here
    ├── TaskLost                the worker, pool or host died, and the task must not (or may no longer) run again
    ├── TaskCancelled           the task was cancelled
    ├── TaskExpired             a time limit passed: the task waited too long for its start, or ran too long
    ├── FunctionUnusable        the code cannot be found, fetched, loaded or is not allowed there
    ├── SerializerNotAllowed    a function, an argument or a result has a form that the other side does not read
    ├── EnvironmentUnusable     the packages that the function needs cannot be had where it runs
    ├── MpiUnusable             the ranks that the function needs cannot be had where it runs
    ├── PoolFailed              the pool that the options ask for cannot be had: options, template or engine are wrong
    ├── ArgumentNotSerialisable an argument cannot be sent
    ├── ResultNotSerialisable   the result cannot be sent back in the form that was asked for
    ├── ObjectMissing           a large argument or result is not, or no longer, in the object store
    ├── ObjectDamaged           a large argument or result is not what was stored: its SHA-256 or size differs
    ├── PermanentFailure        raised by functions: this will not get better by trying again
    ├── EndpointOffline         a delivery waited longer for its endpoint to come back than its subscription says
    ├── EventTooOld             a delivery waited longer than its subscription lets an event get old
    └── SubmissionRefused       the bus or the endpoint did not take the task
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.bus.errors import (
    ArgumentNotSerialisable,
    EndpointOffline,
    EnvironmentUnusable,
    EventTooOld,
    FunctionUnusable,
    MpiUnusable,
    ObjectDamaged,
    ObjectMissing,
    PermanentFailure,
    PoolFailed,
    ResultNotSerialisable,
    SerializerNotAllowed,
    SubmissionRefused,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskLost,
)
from headrace.schemas import HeadraceError, Violation

__all__ = [
    "HeadraceError",
    # Talking to the service
    "ClientError",
    "NotConfigured",
    "TokenUnavailable",
    "ServiceUnreachable",
    "ServiceUnavailable",
    "ProtocolMismatch",
    "TaskPending",
    "QueueFull",
    "RequestRefused",
    "Unauthorized",
    "Forbidden",
    "NotFound",
    # The outcome of a task
    "TaskError",
    "TaskFailed",
    "TaskLost",
    "TaskCancelled",
    "TaskExpired",
    "FunctionUnusable",
    "SerializerNotAllowed",
    "EnvironmentUnusable",
    "MpiUnusable",
    "PoolFailed",
    "ArgumentNotSerialisable",
    "ResultNotSerialisable",
    "ObjectMissing",
    "ObjectDamaged",
    "PermanentFailure",
    "EndpointOffline",
    "EventTooOld",
    "SubmissionRefused",
]


class ClientError(HeadraceError):
    """Raised when something about talking to the service is wrong."""

    code = "ClientError"


class NotConfigured(ClientError):
    """Raised when nobody said which service to use, or with which token; the message says where was looked."""

    code = "NotConfigured"


class TokenUnavailable(ClientError):
    """Raised when the function that gives the client's token raised something, or gave no token."""

    code = "TokenUnavailable"


class ServiceUnreachable(ClientError):
    """Raised when there is no connection to the service, or no answer within the time limit.

    `was_sent`: whether the service may have seen the request; `timed_out`: whether it had all the time that there was.
    """

    code = "ServiceUnreachable"

    def __init__(self, message: str, *, was_sent: bool = True, timed_out: bool = False) -> None:
        self.was_sent = was_sent
        self.timed_out = timed_out
        super().__init__(message)


class ServiceUnavailable(ClientError):
    """Raised when the service answers that it cannot work now (5xx). Trying again later may help."""

    code = "ServiceUnavailable"

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)


class ProtocolMismatch(ClientError):
    """Raised when this SDK and the service speak different versions of the protocol."""

    code = "ProtocolMismatch"


class TaskPending(ClientError):
    """Raised when a task has no result yet; `state` is `pending` or `running`."""

    code = "TaskPending"

    def __init__(self, task_id: str, state: str) -> None:
        self.task_id = task_id
        self.state = state
        super().__init__(f"task {task_id} has no result yet: it is {state}")


class QueueFull(ClientError):
    """Raised when there is no room for another task now: here, or in a queue whose limit the service keeps (429).

    The message says whose limit it is. `limit`: how many there may be (tasks here, bundles at the service), None where
    bytes are counted or it is not known; `used`: how many there are.
    """

    code = "QueueFull"

    def __init__(self, message: str, *, limit: int | None = None, used: int | None = None) -> None:
        self.limit = limit
        self.used = used
        super().__init__(message)


class RequestRefused(ClientError):
    """Raised when the service refuses a request (4xx).

    `status` is the HTTP status, `service_code` the stable code, `detail` the sentence of the service, and `errors`
    names the places in the document that break its schema. `document` is all that it answered: Globus' clients read
    `ConsentRequired` and `PolicyUnmet` in it (`globus_sdk.gare.to_gare(error.document)`).
    """

    code = "RequestRefused"

    def __init__(
        self,
        status: int,
        service_code: str,
        detail: str,
        errors: tuple[Violation, ...] = (),
        document: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = status
        self.document = dict(document or {})
        self.service_code = service_code
        self.detail = detail
        self.errors = errors
        said = f"({service_code}, HTTP {status})"
        if len(errors) == 1 and detail.endswith(errors[0].problem):
            # One error that says all: once is enough, and its field is named once.
            place = errors[0].pointer or "/"
            field = place[1:].partition("/")[0]
            super().__init__(f"{place}: {detail.removeprefix(f'{field}: ')} {said}")
            return
        places = "".join(f"\n  {error.pointer or '/'}: {error.problem}" for error in errors)
        super().__init__(f"{detail} {said}{places}")


class Unauthorized(RequestRefused):
    """Raised when the token is missing, wrong, withdrawn or expired (401)."""

    code = "Unauthorized"


class Forbidden(RequestRefused):
    """Raised when the token is good, but does not allow this (403)."""

    code = "Forbidden"


class NotFound(RequestRefused):
    """Raised when there is no such thing, or this token may not know of it (404)."""

    code = "NotFound"
