"""Tasks as answers show them."""

from __future__ import annotations

from typing import Any

from headrace.action_provider.api.access import timestamp
from headrace.bus.ids import submitted_at
from headrace.bus.tasks.plain_results import result_document
from headrace.bus.tasks.task_views import TaskView

_YEAR_9999_S = 253_370_764_800.0
"""Times that clients and endpoints say may be anything; a date has four digits for its year."""
_HEAVY = ("result", "python_object")


def task_document(view: TaskView) -> dict[str, Any]:
    """A task: its state, its value or error, and when what happened."""
    result = view.result
    times = {
        "submitted_at": submitted_at(view.task_id, view.stored_at),
        "stored_at": view.stored_at,
        "taken_at": result.taken_at if result else 0.0,
        "started_at": result.started_at if result else view.marked_at,
        "ended_at": result.ended_at if result else 0.0,
        "result_stored_at": view.result_stored_at,
    }
    return {
        **result_document(view.task_id, result),
        "state": view.state,
        **({"function_id": view.function} if view.function else {}),
        **{name: timestamp(unix_s) for name, unix_s in times.items() if 0 < unix_s < _YEAR_9999_S},
    }


def located_document(view: TaskView) -> dict[str, Any]:
    """The same, with its group and its endpoint."""
    return {**task_document(view), "task_group_id": view.address.group, "endpoint_id": view.address.endpoint}


def listed_document(view: TaskView) -> dict[str, Any]:
    """The same without what may be large: its value, and the traceback of its error."""
    document = {name: value for name, value in located_document(view).items() if name not in _HEAVY}
    if "error" in document:
        document["error"] = {name: document["error"][name] for name in ("code", "type", "message")}
    return document
