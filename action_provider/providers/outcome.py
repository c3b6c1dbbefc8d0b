"""From the results of an action's tasks to what its status says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from headrace.action_provider.providers.task_results import TaskResults
from headrace.bus.tasks.bundles import TaskResult
from headrace.bus.tasks.plain_results import PlainResult, plain_result, reference_document

_MOST_TASKS_SHOWN = 100
_MOST_ERRORS_SHOWN = 100
_MOST_TRACEBACK = 4000
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


@dataclass(frozen=True, slots=True)
class ActionTask:
    """One task of an action, as it is shown."""

    task_id: UUID
    index: int
    """Its place in the action."""
    result: TaskResult | None
    plain: PlainResult | None
    started: bool = False

    @property
    def state(self) -> str:
        """`pending`, `running`, or how it ended."""
        if self.result is not None:
            return self.result.state
        return "running" if self.started else "pending"

    @property
    def output(self) -> Any:
        """Its value, or where that is; None where there is none."""
        if self.plain is None or self.plain.reference is None:
            return None if self.plain is None else self.plain.value
        return {"result_reference": reference_document(self.task_id, self.plain.reference)}


Values = Callable[[Sequence[ActionTask]], dict[str, Any]]
"""What a provider makes of the tasks of an action that has ended: the part of `details` with their values."""


def progress_of(results: TaskResults, group: str, started: Container[UUID]) -> Progress:
    """How far the tasks are; the states of the first hundred by name, of all by number."""
    tasks = _tasks(results, read=False, started=started)
    states = Counter(task.state for task in tasks)
    done = sum(task.result is not None for task in tasks)
    running = f", {states['running']} running" if states["running"] else ""
    return Progress(
        display_status=f"{done} of {len(tasks)} tasks done{running}",
        details={
            "task_group_id": group,
            "states": dict(states),
            "tasks": [{"task_id": str(task.task_id), "state": task.state} for task in tasks[:_MOST_TASKS_SHOWN]],
        },
    )


def outcome_of(results: TaskResults, values: Values) -> Outcome:
    """The end, when every task has its result."""
    tasks = _tasks(results)
    failed = [task for task in tasks if task.plain is None or task.plain.error or task.plain.python_object]
    if not failed:
        done = "1 task done" if len(tasks) == 1 else f"{len(tasks)} tasks done"
        return Outcome(status="SUCCEEDED", display_status=done, details=values(tasks))
    first = _error_of(failed[0])
    subject = "The task failed" if len(tasks) == 1 else f"{len(failed)} of {len(tasks)} tasks failed"
    reason = f"{first['type']}: {first['message']}" if first["type"] else first["message"]
    separator = ": " if len(tasks) == 1 else "; the first: "
    description = f"{subject}{separator}{reason}"
    return Outcome(
        status="FAILED",
        display_status=subject[4:].capitalize() if len(tasks) == 1 else subject,
        details={**_failed(tasks, code=first["code"], description=description), **values(tasks)},
    )


def failure_of(results: TaskResults, values: Values, *, code: str, description: str, display_status: str) -> Outcome:
    """The end of an action that was given up, with the results that there are."""
    tasks = _tasks(results)
    details = {**_failed(tasks, code=code, description=description), **values(tasks)}
    return Outcome(status="FAILED", display_status=display_status, details=details)


def details_again(results: TaskResults, values: Values) -> dict[str, Any]:
    """The details of a success that were too large for its record, from the results, while these are kept."""
    if not results.complete:
        return {"description": "The results were too large to be kept with the action, and have expired"}
    return values(_tasks(results))


def without_values(details: dict[str, Any]) -> dict[str, Any]:
    """The details of a failure without the values of the tasks that succeeded."""
    left_out = {"results_left_out": "too large; read the tasks of the group instead"}
    return {**{name: details[name] for name in ("code", "description", "errors")}, **left_out}


def lists_of_values(tasks: Sequence[ActionTask]) -> dict[str, Any]:
    """`result` in the order of the tasks, and `results` with their ids; null where there is no value."""
    outputs = [task.output for task in tasks]
    return {
        "result": outputs,
        "results": [
            {"output": output, "task_id": str(task.task_id)} for task, output in zip(tasks, outputs, strict=True)
        ],
    }


def _tasks(results: TaskResults, *, read: bool = True, started: Container[UUID] = ()) -> list[ActionTask]:
    tasks = []
    for place, task_id, result in results.in_order():
        plain = plain_result(result) if result is not None and read else None
        tasks.append(ActionTask(task_id, place, result, plain, task_id in started))
    return tasks


def _failed(tasks: Sequence[ActionTask], *, code: str, description: str) -> dict[str, Any]:
    errors = [
        {"task_id": str(task.task_id), "index": task.index, "state": task.state, **_error_of(task)}
        for task in tasks
        if task.plain is not None and (task.plain.error or task.plain.python_object)
    ]
    return {"code": code, "description": description[:_MOST_DESCRIPTION], "errors": errors[:_MOST_ERRORS_SHOWN]}


def _error_of(task: ActionTask) -> dict[str, str]:
    if task.plain is None:
        return {"code": "TaskPending", "type": "", "message": "it has not ended", "traceback": ""}
    if task.plain.error is None:
        return {"code": "ResultNotSerialisable", "type": "", "message": task.plain.python_object, "traceback": ""}
    return {**task.plain.error, "traceback": task.plain.error["traceback"][-_MOST_TRACEBACK:]}
