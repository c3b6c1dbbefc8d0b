"""The client: `Executor` for futures, `Client` for everything that is one request."""

from headrace.bus.errors import RequirementsInvalid
from headrace.bus.mpi import MPIFunction
from headrace.bus.shell import BashFunction, ShellFunction, ShellResult
from headrace.sdk.client import Client
from headrace.sdk.errors import (
    ArgumentNotSerialisable,
    ClientError,
    EndpointOffline,
    EnvironmentUnusable,
    EventTooOld,
    Forbidden,
    FunctionUnusable,
    HeadraceError,
    MpiUnusable,
    NotConfigured,
    NotFound,
    ObjectDamaged,
    ObjectMissing,
    PermanentFailure,
    PoolFailed,
    ProtocolMismatch,
    QueueFull,
    RequestRefused,
    ResultNotSerialisable,
    SerializerNotAllowed,
    ServiceUnavailable,
    ServiceUnreachable,
    SubmissionRefused,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskLost,
    TaskPending,
    TokenUnavailable,
    Unauthorized,
)
from headrace.sdk.executor import Executor
from headrace.sdk.future import TaskFuture, TaskTimes
from headrace.sdk.logs import LogChunk

__all__ = [
    # Submitting
    "Executor",
    "TaskFuture",
    "TaskTimes",
    "LogChunk",
    # Functions that are commands
    "ShellFunction",
    "BashFunction",
    "MPIFunction",
    "ShellResult",
    # Asking the service
    "Client",
    # What can go wrong, all of it
    "HeadraceError",
    # What can go wrong with the service
    "ClientError",
    "NotConfigured",
    "TokenUnavailable",
    "ServiceUnreachable",
    "ServiceUnavailable",
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "RequestRefused",
    "RequirementsInvalid",
    "TaskPending",
    "QueueFull",
    "ProtocolMismatch",
    # What can go wrong with a task
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
