"""Outcomes of tasks for those who speak JSON. Nothing is ever unpickled here: that would run the worker's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.bus.data.encodings import ENCODING_NAMES, JSON, MSGPACK, OBJECT
from headrace.bus.data.failures import decode_failure
from headrace.bus.data.json_values import encode_json
from headrace.bus.data.payloads import Part, whole
from headrace.bus.data.values import decode as decode_value
from headrace.bus.errors import DecodeError, ResultNotSerialisable
from headrace.bus.tasks.bundles import TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainResult:
    """The outcome of a task for those who speak JSON: a value, an error, or neither when only Python can read it."""

    state: str
    value: Any = None
    error: dict[str, str] | None = None
    """`code`, `type`, `message` and `traceback`."""
    python_object: str = ""
    """Why `value` is missing though the task succeeded, and how to get it."""
    reference: Part | None = None
    """Where `value` is, when it is JSON in the object store."""


def plain_result(result: TaskResult) -> PlainResult:
    """The outcome without Python's help."""
    if result.state != "succeeded":
        return PlainResult(state=result.state, error=_plain_error(result))
    if result.encoding in (JSON, MSGPACK):
        try:
            value = decode_value(result.encoding, result.value)
            if result.encoding == MSGPACK:
                # It may hold what JSON has no form for: bytes, NaN.
                value = decode_value(JSON, encode_json(value))
            return PlainResult(state=result.state, value=value)
        except (DecodeError, ResultNotSerialisable) as error:
            return PlainResult(state=result.state, python_object=_how_to_get(str(error)))
    if result.encoding == OBJECT:
        return _plain_reference(result)
    form = ENCODING_NAMES.get(result.encoding, f"encoding {result.encoding}")
    return PlainResult(state=result.state, python_object=_how_to_get(f"the value is a Python object ({form})"))


def _plain_reference(result: TaskResult) -> PlainResult:
    try:
        part = whole(result.value)
    except DecodeError as error:
        return PlainResult(state=result.state, python_object=_how_to_get(str(error)))
    if part is not None and part.encoding == JSON:
        return PlainResult(state=result.state, reference=part)
    return PlainResult(state=result.state, python_object=_how_to_get("the value is a large Python object"))


def reference_document(task_id: UUID, part: Part) -> dict[str, Any]:
    """Where a large value is, for those who speak HTTP."""
    return {"href": f"/api/v1/tasks/{task_id}/result", "size": part.size, "sha256": part.digest}


def result_document(task_id: UUID, result: TaskResult | None) -> dict[str, Any]:
    """A task as an answer over HTTP, but for its times: id and state, `result` or `error`, attempts and worker."""
    if result is None:
        return {"task_id": str(task_id), "state": "pending"}
    plain = plain_result(result)
    document: dict[str, Any] = {"task_id": str(task_id), "state": plain.state}
    if plain.error is not None:
        document["error"] = plain.error
    elif plain.python_object:
        document["python_object"] = plain.python_object
    elif plain.reference is not None:
        document["result_reference"] = reference_document(task_id, plain.reference)
    else:
        document["result"] = plain.value
    document["attempts"] = result.attempts
    if result.worker:
        document["worker"] = result.worker
    return document


def _plain_error(result: TaskResult) -> dict[str, str]:
    try:
        failure = decode_failure(result.value)
    except DecodeError as error:
        return {"code": _CODES.get(result.state, "TaskError"), "type": "", "message": str(error), "traceback": ""}
    return {
        "code": failure.code,
        "type": failure.type_path,
        "message": failure.message,
        "traceback": failure.traceback,
    }


_CODES = {"failed": "TaskFailed", "cancelled": "TaskCancelled", "expired": "TaskExpired"}


def _how_to_get(reason: str) -> str:
    return (
        f"{reason}; this service does not unpickle. Read it in Python with `Executor(task_group_id=…).reload_tasks()`,"
        " or submit the task over HTTP, which asks for JSON"
    )
