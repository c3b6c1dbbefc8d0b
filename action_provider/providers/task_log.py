"""What happened in an action that is made of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from headrace.action_provider.providers.documents import timestamp
from headrace.action_provider.providers.task_results import TaskResults
from headrace.bus.ids import submitted_at

_YEAR_9999_S: Final = 253_370_764_800.0
"""Times that endpoints say may be anything; a date has four digits for its year."""
_WORDS: Final = {"Taken": "taken by a pool"}


def log_entries(results: TaskResults, running: Mapping[UUID, float]) -> list[dict[str, Any]]:
    """Every step of every task, as far as it came; `running` says since when those run that have no result."""
    entries = []
    for place, task, result, stored_at in results.in_order():
        known = {"task_id": str(task), "index": place}
        steps = [("Submitted", submitted_at(task))]
        if result is not None:
            steps += [("Taken", result.taken_at), ("Started", result.started_at)]
        elif task in running:
            steps.append(("Started", running[task]))
        entries += [_entry(at, step, task, known) for step, at in steps if 0 < at < _YEAR_9999_S]
        if result is not None:
            known |= {"state": result.state, "attempts": result.attempts}
            at = result.ended_at if 0 < result.ended_at < _YEAR_9999_S else stored_at
            entries.append(_entry(at, result.state.capitalize(), task, known))
    return entries


def _entry(at: float, step: str, task: UUID, known: dict[str, Any]) -> dict[str, Any]:
    description = f"Task {task} {_WORDS.get(step, step.lower())}"
    return {"time": timestamp(at), "code": f"Task{step}", "description": description, "details": known}
