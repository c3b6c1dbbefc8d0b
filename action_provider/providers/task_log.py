"""What happened in an action that is made of tasks."""

from __future__ import annotations

from typing import Any

from headrace.action_provider.providers.documents import timestamp
from headrace.action_provider.providers.task_results import TaskResults


def log_entries(results: TaskResults) -> list[dict[str, Any]]:
    """The end of each task."""
    entries = []
    for _, task, result, stored_at in results.in_order():
        if result is not None:
            entries.append(
                {
                    "time": timestamp(result.ended_at or stored_at),
                    "code": f"Task{result.state.capitalize()}",
                    "description": f"Task {task} {result.state}",
                    "details": {"task_id": str(task), "state": result.state, "attempts": result.attempts},
                }
            )
    return entries
