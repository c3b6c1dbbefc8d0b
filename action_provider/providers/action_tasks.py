"""A task of an action, as the action's details show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.providers.task_results import StoredTask
from headrace.bus.tasks.bundles import TaskResult
from headrace.bus.tasks.plain_results import PlainResult, plain_result

_YEAR_9999_S = 253_370_764_800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionTask:
    """One task of an action."""

    task_id: UUID
    index: int
    """Its place in the action."""
    result: TaskResult | None
    plain: PlainResult | None = None
    """Its outcome as JSON; None while it has none, or where nobody wants to see it."""
    reference: dict[str, Any] | None = None
    """Where its value is, when it is not shown."""
    started_at: float = 0.0
    """Since when it runs, of one that has no result: unix seconds."""

    stored_at: float = 0.0
    """When its result was stored: unix seconds, the server's clock."""

    @classmethod
    def of(cls, stored: StoredTask, *, read: bool, started_at: float = 0.0) -> Self:
        """A task as it is stored; its value is decoded where `read` says so."""
        place, task_id, result, stored_at = stored
        plain = plain_result(result) if result is not None and read else None
        return cls(task_id=task_id, index=place, result=result, plain=plain, started_at=started_at, stored_at=stored_at)

    @property
    def state(self) -> str:
        """`pending`, `running`, or how it ended."""
        if self.result is not None:
            return self.result.state
        return "running" if self.started_at else "pending"

    @property
    def has_value(self) -> bool:
        """Whether it has succeeded with what JSON can carry."""
        return self.plain is not None and not self.plain.error and not self.plain.python_object

    @property
    def output(self) -> Any:
        """Its value, or `{"result_reference": …}`; None where there is none."""
        if self.reference is not None:
            return {"result_reference": self.reference}
        return self.plain.value if self.plain is not None and self.has_value else None

    def document(self) -> dict[str, Any]:
        """The task with its state and times."""
        result = self.result
        times = {
            "started_at": result.started_at if result else self.started_at,
            "ended_at": result.ended_at if result else 0.0,
        }
        return {
            "task_id": str(self.task_id),
            "state": self.state,
            **{name: timestamp(unix_s) for name, unix_s in times.items() if 0 < unix_s < _YEAR_9999_S},
        }
