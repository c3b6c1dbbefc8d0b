"""What happened in an action that is made of tasks."""

from __future__ import annotations

from typing import Any

from headrace.action_provider.providers.documents import timestamp
from headrace.action_provider.providers.task_results import TaskResults
from headrace.bus.store.actions import ActionRecord


def log_entries(action: ActionRecord, results: TaskResults) -> list[dict[str, Any]]:
    """Start, end of each task, and end, in the order of their times."""
    entries = []
    for _, task, result in results.in_order():
        if result is not None:
            entries.append(
                {
                    "time": timestamp(result.ended_at or results.last_stored_at),
                    "code": f"Task{result.state.capitalize()}",
                    "description": f"Task {task} {result.state}",
                    "details": {"task_id": str(task), "state": result.state, "attempts": result.attempts},
                }
            )
    entries.sort(key=lambda entry: str(entry["time"]))
    first = {"time": timestamp(action.started_at), "code": "ActionStarted", "description": "The action started"}
    last = []
    if action.ended_at is not None:
        code = f"Action{action.status.capitalize()}"
        last = [{"time": timestamp(action.ended_at), "code": code, "description": action.display_status}]
    return [first, *entries, *last]
