"""From the results of an action's tasks to what its status says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from headrace.bus.ids import task_id
from headrace.bus.tasks.bundles import TaskResult
from headrace.bus.tasks.plain_results import PlainResult, plain_result, reference_document
from headrace.bus.tasks.results import ResultCollector

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
class _Task:
    task_id: UUID
    index: int
    result: TaskResult | None
    plain: PlainResult | None
    started: bool = False

    @property
    def state(self) -> str:
        if self.result is not None:
            return self.result.state
        return "running" if self.started else "pending"


def progress_of(collectors: Sequence[ResultCollector], group: str, started: Container[UUID]) -> Progress:
    """How far the tasks are; the states of the first hundred by name, of all by number."""
    tasks = _tasks(collectors, read=False, started=started)
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


def outcome_of(collectors: Sequence[ResultCollector]) -> Outcome:
    """The end, when every task has its result."""
    tasks = _tasks(collectors)
    failed = [task for task in tasks if task.plain is None or task.plain.error or task.plain.python_object]
    if not failed:
        done = "1 task done" if len(tasks) == 1 else f"{len(tasks)} tasks done"
        return Outcome(status="SUCCEEDED", display_status=done, details=_values(tasks))
    first = _error_of(failed[0])
    subject = "The task failed" if len(tasks) == 1 else f"{len(failed)} of {len(tasks)} tasks failed"
    reason = f"{first['type']}: {first['message']}" if first["type"] else first["message"]
    separator = ": " if len(tasks) == 1 else "; the first: "
    return Outcome(
        status="FAILED",
        display_status=subject[4:].capitalize() if len(tasks) == 1 else subject,
        details=_failed(tasks, code=first["code"], description=f"{subject}{separator}{reason}"),
    )


def failure_of(collectors: Sequence[ResultCollector], *, code: str, description: str, display_status: str) -> Outcome:
    """The end of an action that was given up, with the results that there are."""
    tasks = _tasks(collectors)
    details = _failed(tasks, code=code, description=description)
    return Outcome(status="FAILED", display_status=display_status, details=details)


def details_again(collectors: Sequence[ResultCollector]) -> dict[str, Any]:
    """The details of a success that were too large for its record, from the results, while these are kept."""
    if not all(each.complete for each in collectors):
        return {"description": "The results were too large to be kept with the action, and have expired"}
    return _values(_tasks(collectors))


def without_values(details: dict[str, Any]) -> dict[str, Any]:
    """The details of a failure without the values of the tasks that succeeded."""
    left_out = {"results_left_out": "too large; read the tasks of the group instead"}
    return {**{name: value for name, value in details.items() if name not in ("result", "results")}, **left_out}


def _tasks(collectors: Sequence[ResultCollector], *, read: bool = True, started: Container[UUID] = ()) -> list[_Task]:
    tasks: list[_Task] = []
    for each in collectors:
        for index in range(each.total or 0):
            result = each.results.get(index)
            plain = plain_result(result) if result is not None and read else None
            task = task_id(each.address.bundle, index)
            tasks.append(_Task(task, len(tasks), result, plain, task in started))
    return tasks


def _values(tasks: Sequence[_Task]) -> dict[str, Any]:
    """`result` in the order of the tasks, and `results` with their ids; null where there is no value."""
    outputs = [_output(task) for task in tasks]
    return {
        "result": outputs,
        "results": [
            {"output": output, "task_id": str(task.task_id)} for task, output in zip(tasks, outputs, strict=True)
        ],
    }


def _output(task: _Task) -> Any:
    if task.plain is None or task.plain.reference is None:
        return None if task.plain is None else task.plain.value
    return {"result_reference": reference_document(task.task_id, task.plain.reference)}


def _failed(tasks: Sequence[_Task], *, code: str, description: str) -> dict[str, Any]:
    errors = [
        {"task_id": str(task.task_id), "index": task.index, "state": task.state, **_error_of(task)}
        for task in tasks
        if task.plain is not None and (task.plain.error or task.plain.python_object)
    ]
    return {
        "code": code,
        "description": description[:_MOST_DESCRIPTION],
        "errors": errors[:_MOST_ERRORS_SHOWN],
        **_values(tasks),
    }


def _error_of(task: _Task) -> dict[str, str]:
    if task.plain is None:
        return {"code": "TaskPending", "type": "", "message": "it has not ended", "traceback": ""}
    if task.plain.error is None:
        return {"code": "ResultNotSerialisable", "type": "", "message": task.plain.python_object, "traceback": ""}
    return {**task.plain.error, "traceback": task.plain.error["traceback"][-_MOST_TRACEBACK:]}
