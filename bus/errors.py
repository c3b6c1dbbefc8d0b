"""Errors of the bus and of tasks.

BusError                    something about the bus itself
├── BusUnavailable          no connection, or no answer within the time limit
│   └── ProtocolBroken      what answers is no NATS server
├── NetworkUnusable         a proxy or certificates that this machine was told to use cannot be used
├── PermissionDenied        the credential does not allow the subject
├── AlreadyStored           the subject already holds a message (the first writer won)
├── StreamFull              a stream or its disk is full; nothing was stored
├── QueueFull               a principal, or everybody together, has as much queued at an endpoint as its owner allows
├── PoolLimit               a principal has as many configurations at an endpoint as it remembers
├── BatchRefused            messages cannot be stored all at once: one is there, or not now
├── ConsumerOverlaps        another consumer takes some of the same messages of a work queue
├── StreamMissing           the server has no such stream
├── PayloadTooLarge         the message is larger than the server takes
├── DecodeError             bytes that are not what they should be
│   └── WireVersionUnknown  a bundle or a result part of another release's wire version
├── SignatureInvalid        a bundle or a result part without a valid MAC
├── RecordConflict          a record was changed, or created, by somebody else
├── RecordMissing           no record under that key
├── ServerUnusable          the NATS server cannot be started or used (missing, too old, port taken)
├── BackupFailed            a stream cannot be copied, or put back from its copy
├── KeysUnusable            keys that are missing, damaged, or open to other users
├── FilterInvalid           an event filter or input template that cannot be compiled
│   ├── InvalidPattern      an event pattern that is none: not JSON, or not in the pattern language
│   └── InvalidExpression   a CESQL expression that is none
├── ScheduleInvalid         a schedule whose times cannot be
├── SinkProblem             a sink gave no answer: it cannot be reached, or must not be
├── EventRefused            a message that is no event in any form that is read here
├── EventUnfit              an event that does not fit the schema that its bus has for its type
├── BusMissing              no bus has this name
├── BusLimit                there are as many buses as there may be
├── PublishingForbidden     somebody may not publish to a bus
├── InputFailed             an input template that cannot be rendered for one event
├── RequirementsInvalid     the packages or the Python that a function is said to need cannot be
├── DeliveryForbidden       the owner of a subscription may not run its function at its endpoint
├── EndpointNotAllowed      an event names an endpoint that its subscription does not allow
└── LoopDetected            an event would come to a subscription that has led to it
TaskError                   the outcome of one task that has no value
├── TaskFailed              the function raised, and its own type cannot be raised here
├── TaskLost                the worker, pool or host died, and the task must not (or may no longer) run again
├── TaskCancelled           the task was cancelled
├── TaskExpired             a time limit passed: the task waited too long for its start, or ran too long
├── FunctionUnusable        the code cannot be found, fetched, loaded or is not allowed here
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

from headrace.schemas.errors import HeadraceError, Violation


class BusError(HeadraceError):
    """Raised when something about the bus itself is wrong."""

    code = "BusError"


class BusUnavailable(BusError):
    """Raised when there is no connection to the bus, or no answer within the time limit."""

    code = "BusUnavailable"


class ProtocolBroken(BusUnavailable):
    """Raised when what answers does not speak NATS's protocol."""

    code = "ProtocolBroken"


class NetworkUnusable(BusError):
    """Raised when a proxy or the certificates that this machine was told to use cannot be used."""

    code = "NetworkUnusable"


class PermissionDenied(BusError):
    """Raised when the credential in use does not allow the subject."""

    code = "PermissionDenied"


class AlreadyStored(BusError):
    """Raised when the subject already holds a message; what was stored first stays."""

    code = "AlreadyStored"


class StreamFull(BusError):
    """Raised when a stream, or the disk beneath it, is full. Nothing was stored; try again later."""

    code = "StreamFull"


class QueueFull(BusError):
    """Raised when a queue of an endpoint holds as many bundles (`used`) as its owner allows (`limit`).

    Nothing was stored; try again when some of them have ended.
    """

    code = "QueueFull"

    def __init__(self, message: str, *, limit: int, used: int) -> None:
        self.limit = limit
        self.used = used
        super().__init__(message)


class PoolLimit(BusError):
    """Raised when a principal has as many configurations at an endpoint as are remembered."""

    code = "PoolLimit"


class BatchRefused(BusError):
    """Raised when messages cannot be stored all at once: some were there before, or the server does not do that now."""

    code = "BatchRefused"


class ConsumerOverlaps(BusError):
    """Raised when another consumer takes some of the same messages of a work queue already."""

    code = "ConsumerOverlaps"


class StreamMissing(BusError):
    """Raised when the server has no such stream, or nothing listens on the subject."""

    code = "StreamMissing"


class PayloadTooLarge(BusError):
    """Raised when a message is larger than the limit, which is `limit` bytes."""

    code = "PayloadTooLarge"

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(message)


class DecodeError(BusError):
    """Raised when bytes are not what they should be; `raw` holds them."""

    code = "DecodeError"

    def __init__(self, message: str, *, raw: bytes = b"") -> None:
        self.raw = raw
        super().__init__(message)


class WireVersionUnknown(DecodeError):
    """Raised when a bundle or a result part has a wire version that this release does not read."""

    code = "WireVersionUnknown"


class SignatureInvalid(BusError):
    """Raised when a bundle or a result part carries no valid MAC; it is not believed."""

    code = "SignatureInvalid"


class RecordConflict(BusError):
    """Raised when a record exists already, or was changed since it was read."""

    code = "RecordConflict"


class RecordMissing(BusError):
    """Raised when there is no record under a key."""

    code = "RecordMissing"


class ServerUnusable(BusError):
    """Raised when the NATS server cannot be started or used: missing, too old, its port taken."""

    code = "ServerUnusable"


class BackupFailed(BusError):
    """Raised when a stream cannot be copied, or put back from its copy."""

    code = "BackupFailed"


class KeysUnusable(BusError):
    """Raised when keys or credentials are missing, damaged, not readable, or open to other users."""

    code = "KeysUnusable"


class FilterInvalid(BusError):
    """Raised when an event filter or an input template cannot be compiled; `pointer` says where."""

    code = "FilterInvalid"

    def __init__(self, message: str, *, pointer: str = "") -> None:
        self.pointer = pointer
        super().__init__(message)


class ScheduleInvalid(BusError):
    """Raised when the times of a schedule cannot be; `pointer` says where."""

    code = "ScheduleInvalid"

    def __init__(self, message: str, *, pointer: str = "") -> None:
        self.pointer = pointer
        super().__init__(message)


class InvalidPattern(FilterInvalid):
    """Raised when an event pattern is none. `pointer` says where; so do `line` and `column`, from 1, in a text."""

    code = "InvalidPattern"

    def __init__(self, message: str, *, pointer: str = "", line: int | None = None, column: int | None = None) -> None:
        self.problem = message
        self.line = line
        self.column = column
        where = [f"line {line}, column {column}"] if line is not None else []
        where += [pointer] if pointer else []
        super().__init__(f"{message} ({', '.join(where)})" if where else message, pointer=pointer)


class InvalidExpression(FilterInvalid):
    """Raised when a CESQL expression is none. `position` is the character, from 1; `error` what the specification
    calls it."""

    code = "InvalidExpression"
    error = "parse"

    def __init__(self, message: str, *, position: int | None = None, pointer: str = "") -> None:
        self.problem = message
        self.position = position
        super().__init__(message if position is None else f"{message} (character {position})", pointer=pointer)


class SinkProblem(BusError):
    """Raised when a sink gave no answer. `kind` says which of the codes of dead letters it is."""

    code = "SinkProblem"

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class EventRefused(BusError):
    """Raised when a message is no event, or has a form that is not read here."""

    code = "EventRefused"


class EventUnfit(BusError):
    """Raised when an event does not fit the schema that its bus has for its type; `violations` says where."""

    code = "EventUnfit"

    def __init__(self, message: str, *, violations: tuple[Violation, ...]) -> None:
        self.violations = violations
        super().__init__(message)


class BusMissing(BusError):
    """Raised when no bus has this name."""

    code = "BusMissing"


class BusLimit(BusError):
    """Raised when there are as many buses as there may be."""

    code = "BusLimit"


class PublishingForbidden(BusError):
    """Raised when somebody may not publish to a bus."""

    code = "PublishingForbidden"


class InputFailed(BusError):
    """Raised when an input template cannot be rendered for an event; `pointer` says which one. Repeating is no help."""

    code = "InputFailed"

    def __init__(self, message: str, *, pointer: str = "") -> None:
        self.pointer = pointer
        super().__init__(message)


class DeliveryForbidden(BusError):
    """Raised when the owner of a subscription may not, or no longer, run its function at its endpoint."""

    code = "DeliveryForbidden"


class EndpointNotAllowed(BusError):
    """Raised when an event names an endpoint that is not among those which its subscription allows."""

    code = "EndpointNotAllowed"


class LoopDetected(BusError):
    """Raised when an event would come to a subscription that has led to it, or too many have, one after another."""

    code = "LoopDetected"


class RequirementsInvalid(BusError):
    """Raised when the packages, or the Python, that a function is said to need are not written as they should be.

    `field` is `requirements` or `requires_python`; `problem` is the message without what the field is called.
    """

    code = "RequirementsInvalid"

    def __init__(self, problem: str, *, field: str = "requirements") -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class TaskError(HeadraceError):
    """The outcome of a task that has no value."""

    code = "TaskError"


class TaskFailed(TaskError):
    """The function raised, and its own exception type cannot be raised here.

    `type_name` is the remote type (`package.module.Name`), `remote_message` its text, `remote_traceback` the traceback
    as text.
    """

    code = "TaskFailed"

    def __init__(self, type_name: str, remote_message: str, remote_traceback: str = "") -> None:
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback
        super().__init__(f"{type_name}: {remote_message}" if remote_message else type_name)

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[str, str, str]]:
        return type(self), (self.type_name, self.remote_message, self.remote_traceback)


class TaskLost(TaskError):
    """The worker, pool or host died while the task ran, and it must not, or may no longer, run again."""

    code = "TaskLost"


class TaskCancelled(TaskError):
    """The task was cancelled."""

    code = "TaskCancelled"


class TaskExpired(TaskError):
    """A time limit passed before the task started, or while it ran."""

    code = "TaskExpired"


class FunctionUnusable(TaskError):
    """The function's code cannot be found, fetched or loaded on the worker, or is not allowed there."""

    code = "FunctionUnusable"


class SerializerNotAllowed(TaskError):
    """A function, an argument or a result came in a form that the other side was told not to read: nothing was read."""

    code = "SerializerNotAllowed"


class EnvironmentUnusable(TaskError):
    """The packages that the function needs are not allowed at the endpoint, or cannot be installed there."""

    code = "EnvironmentUnusable"


class MpiUnusable(TaskError):
    """The endpoint has no MPI launcher, or not the ranks that `resource_specification` asks for."""

    code = "MpiUnusable"


class PoolFailed(TaskError):
    """The pool that the `user_endpoint_config` asks for cannot be had; the message has the endpoint's own words."""

    code = "PoolFailed"


class ArgumentNotSerialisable(TaskError):
    """An argument cannot be sent to the worker."""

    code = "ArgumentNotSerialisable"


class ResultNotSerialisable(TaskError):
    """The function returned a value that cannot be sent back in the form that was asked for."""

    code = "ResultNotSerialisable"


class ObjectMissing(TaskError):
    """A large argument or result, or a part of it, is not (or no longer) in the object store."""

    code = "ObjectMissing"


class ObjectDamaged(TaskError):
    """A large argument or result is not what was stored: its SHA-256 or its size differs."""

    code = "ObjectDamaged"


class PermanentFailure(TaskError):
    """Raised by a function that an event runs, when trying again is no help: the delivery is given up at once.

    Any exception of this name does, so that a function can define its own.
    """

    code = "PermanentFailure"


class EndpointOffline(TaskError):
    """The endpoint was away for longer than the subscription lets a delivery wait for it."""

    code = "EndpointOffline"


class EventTooOld(TaskError):
    """The event became older than the subscription allows before its delivery started."""

    code = "EventTooOld"


class SubmissionRefused(TaskError):
    """The bus or the endpoint did not take the task."""

    code = "SubmissionRefused"
