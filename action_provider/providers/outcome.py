"""From the results of an action's tasks to what its status says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from headrace.action_provider.providers.action_tasks import ActionTask
from headrace.action_provider.providers.provider import CANCELLED, Ending
from headrace.action_provider.providers.task_results import TaskResults
from headrace.action_provider.providers.value_references import References

_MOST_TASKS_SHOWN = 100
_MOST_ERRORS_SHOWN = 50
_MOST_TRACEBACKS = 5
_MOST_TRACEBACK = 2000
_MOST_MESSAGE = 1000
_MOST_OTHER_MESSAGE = 200
_MOST_DESCRIPTION = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An action that goes on."""

    display_status: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An action that has ended."""

    status: Literal["SUCCEEDED", "FAILED"]
    display_status: str
    details: dict[str, Any]
    whole: bytes = b""
    """The list of all values, when the details name a part of them only: to be kept where they say."""


Values = Callable[[Sequence[ActionTask]], dict[str, Any]]
"""What a provider makes of the tasks of an action that has ended: the part of `details` with their values."""


def progress_of(results: TaskResults, started: Mapping[UUID, float], offline: Sequence[UUID] = ()) -> Progress:
    """How far the tasks are; `started` says since when those run that have no result; `offline` are the endpoints that
    are not there to go on with them."""
    tasks = _tasks(results, started=started)
    states = Counter(task.state for task in tasks)
    done = sum(task.result is not None for task in tasks)
    failed = done - states["succeeded"]
    parts = [f"{done} of {len(tasks)} tasks done"]
    if failed:
        parts[0] += f" ({failed} failed)"
    if states["running"]:
        parts.append(f"{states['running']} running")
    details = _states(results, tasks)
    if offline:
        parts.append("endpoint offline" if len(offline) == 1 else f"{len(offline)} endpoints offline")
        details["endpoints_offline"] = [str(endpoint) for endpoint in offline]
    return Progress(display_status=", ".join(parts), details=details)


def outcome_of(results: TaskResults, values: Values, references: References) -> Outcome:
    """The end, when every task has its result."""
    tasks = _tasks(results, read=True)
    failed = [task for task in tasks if not task.has_value]
    if not failed:
        done = "1 task done" if len(tasks) == 1 else f"{len(tasks)} tasks done"
        return _outcome("SUCCEEDED", done, {}, results, tasks, values, references)
    if all(task.state == "cancelled" for task in failed):
        # By whoever may: one by one, or by a service that died before it could write the action's end.
        subject = "The task was" if len(tasks) == 1 else f"{len(failed)} of {len(tasks)} tasks were"
        return failure_of(results, values, references, replace(CANCELLED, description=f"{subject} cancelled"))
    first = _error_of(failed[0])
    alone = len(tasks) == 1
    subject = "The task failed" if alone else f"{len(failed)} of {len(tasks)} tasks failed"
    reason = f"{first['type']}: {first['message']}" if first["type"] else first["message"]
    description = f"{subject}{': ' if alone else '; the first: '}{reason}"
    why = _failure(failed, code=first["code"], description=description)
    return _outcome("FAILED", "Task failed" if alone else subject, why, results, tasks, values, references)


def failure_of(results: TaskResults, values: Values, references: References, why: Ending) -> Outcome:
    """The end of an action that was given up, with the results that there are."""
    tasks = _tasks(results, read=True)
    failed = [task for task in tasks if task.state == "failed"]
    details = _failure(failed, code=why.code, description=why.description)
    return _outcome("FAILED", why.display_status, details, results, tasks, values, references)


def lists_of_values(tasks: Sequence[ActionTask]) -> dict[str, Any]:
    """`result` in the order of the tasks, and `results` with their ids; null where there is no value."""
    outputs = [task.output for task in tasks]
    return {
        "result": outputs,
        "results": [
            {"output": output, "task_id": str(task.task_id)} for task, output in zip(tasks, outputs, strict=True)
        ],
    }


def _tasks(
    results: TaskResults, *, read: bool = False, started: Mapping[UUID, float] | None = None
) -> list[ActionTask]:
    marks = started or {}
    return [
        ActionTask.of(stored, read=read, started_at=marks.get(stored.task_id, 0.0)) for stored in results.in_order()
    ]


def _states(results: TaskResults, tasks: Sequence[ActionTask]) -> dict[str, Any]:
    """How many tasks are in which state, and of the first hundred which, with times."""
    return {
        "task_group_id": str(results.group),
        "states": dict(Counter(task.state for task in tasks)),
        "tasks": [task.document() for task in tasks[:_MOST_TASKS_SHOWN]],
    }


def _outcome(
    status: Literal["SUCCEEDED", "FAILED"],
    display_status: str,
    why: dict[str, Any],
    results: TaskResults,
    tasks: Sequence[ActionTask],
    values: Values,
    references: References,
) -> Outcome:
    shown = references.shown(tasks)
    details = {**why, **values(shown.tasks), **shown.document, **_states(results, tasks)}
    return Outcome(status=status, display_status=display_status, details=details, whole=shown.whole)


def _failure(failed: Sequence[ActionTask], *, code: str, description: str) -> dict[str, Any]:
    errors = [
        {"task_id": str(task.task_id), "index": task.index, "state": task.state}
        | _shortened(_error_of(task), whole=number < _MOST_TRACEBACKS)
        for number, task in enumerate(failed[:_MOST_ERRORS_SHOWN])
    ]
    return {"code": code, "description": description[:_MOST_DESCRIPTION], "errors": errors}


def _error_of(task: ActionTask) -> dict[str, str]:
    if task.plain is None:
        return {"code": "TaskPending", "type": "", "message": "it has not ended", "traceback": ""}
    if task.plain.error is None:
        return {"code": "ResultNotSerialisable", "type": "", "message": task.plain.python_object, "traceback": ""}
    return task.plain.error


def _shortened(error: dict[str, str], *, whole: bool) -> dict[str, str]:
    """An error as it is kept with an action: all of them together must leave a flow's state some room."""
    message = error["message"][: _MOST_MESSAGE if whole else _MOST_OTHER_MESSAGE]
    return {**error, "message": message, "traceback": error["traceback"][-_MOST_TRACEBACK:] if whole else ""}
