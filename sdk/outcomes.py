"""Outcomes: what a task's end, or that of its submission, becomes for whoever has its future or asks for its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from headrace.bus.data.failures import decode_failure, rebuild
from headrace.bus.data.values import decode as decode_value
from headrace.bus.functions.serializers import PICKLES
from headrace.bus.tasks.bundles import TaskResult
from headrace.schemas import HeadraceError
from headrace.sdk import errors
from headrace.sdk.future import TaskFuture

_OUTCOMES: Final[Mapping[str, type[errors.TaskError]]] = {
    kind.code: kind
    for kind in (
        errors.TaskLost,
        errors.TaskCancelled,
        errors.TaskExpired,
        errors.FunctionUnusable,
        errors.SerializerNotAllowed,
        errors.EnvironmentUnusable,
        errors.MpiUnusable,
        errors.PoolFailed,
        errors.ArgumentNotSerialisable,
        errors.ResultNotSerialisable,
        errors.ObjectMissing,
        errors.ObjectDamaged,
        errors.SubmissionRefused,
    )
}

_ENDS: Final = {"cancelled": errors.TaskCancelled.code, "expired": errors.TaskExpired.code}


def settle(future: TaskFuture, result: TaskResult) -> None:
    """Give a future the value or the error of its task, unless it has ended already."""
    if future.done():
        return
    future.attempts = result.attempts
    if not future.begin():
        return
    try:
        if future._plain_only and result.state == "succeeded":
            check_plain(result.encoding)
        if result.state == "succeeded":
            future.set_result(decode_value(result.encoding, result.value))
        else:
            future.set_exception(rebuild(decode_failure(result.value), plain_only=future._plain_only))
    except errors.SerializerNotAllowed as error:
        future.set_exception(error)
    except Exception as error:  # unpickling runs code of users: whatever it raises belongs to this future
        future.set_exception(unreadable(error))


def check_plain(encoding: int) -> None:
    """Raises `SerializerNotAllowed` for a result that is a pickle."""
    if encoding in PICKLES:
        raise errors.SerializerNotAllowed(
            "the result came as a pickle, and this executor reads none (allow_pickle=False); nothing of it was read"
        )


def fail(futures: Iterable[TaskFuture], error: BaseException) -> None:
    """Give all of these that have not ended the same error."""
    for future in list(futures):
        if future.begin():
            future.set_exception(error)


def unreadable(error: Exception) -> errors.ResultNotSerialisable:
    """The error for a value that is here, and cannot be made sense of."""
    unreadable = errors.ResultNotSerialisable(f"the task succeeded, but its result cannot be read here: {error}")
    unreadable.__cause__ = error
    return unreadable


def refused(error: HeadraceError) -> BaseException:
    """The error for a task that was not taken, because of this one."""
    if isinstance(error, errors.TaskError):
        return error
    refused = errors.SubmissionRefused(f"the task was not taken: {error}")
    refused.__cause__ = error
    return refused


def error_of_document(answer: Mapping[str, Any]) -> errors.TaskError:
    """The error of a task without a value, of which the service gave this document."""
    error, state = answer.get("error") or {}, answer["state"]
    code = str(error.get("code") or _ENDS.get(state, ""))
    message = str(error.get("message") or f"task {answer['task_id']} {state}")
    kind = _OUTCOMES.get(code)
    if kind is not None:
        return kind(message)
    return errors.TaskFailed(str(error.get("type") or code or "Exception"), message, str(error.get("traceback", "")))
