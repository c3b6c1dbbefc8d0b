"""Values that are too large for a workflow's state: the details of an action say where they are in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.providers.action_tasks import ActionTask
from headrace.action_provider.settings import ServiceSettings

NEVER_REFERRED_BYTES: Final = 512
"""A value as small as this is shown whatever else is there: saying where it is would take as much room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The rule: the values of an action are shown as long as all of them together have at most `most_bytes` as JSON;
    else the largest are replaced by references, one after the other, until the rest fits."""

    most_bytes: int
    base_url: str
    """What the addresses of values begin with."""
    kept_s: float
    """How long results are kept."""

    @classmethod
    def of(cls, settings: ServiceSettings) -> References:
        """The rule of a service."""
        return cls(
            most_bytes=settings.action_value_bytes,
            base_url=settings.public_url.rstrip("/"),
            kept_s=settings.streams.result_age_s,
        )

    def applied(self, tasks: Sequence[ActionTask]) -> list[ActionTask]:
        """The tasks, those with references whose values are not shown."""
        sizes = {task.index: _size(task) for task in tasks if task.has_value}
        shown = sum(sizes.values())
        elsewhere = {task.index for task in tasks if task.plain is not None and task.plain.reference is not None}
        shown -= sum(sizes[index] for index in elsewhere)
        for index in sorted(sizes, key=lambda index: (-sizes[index], index)):
            if shown <= self.most_bytes or sizes[index] <= NEVER_REFERRED_BYTES:
                break
            if index not in elsewhere:
                elsewhere.add(index)
                shown -= sizes[index]
        if not elsewhere:
            return list(tasks)
        return [replace(task, reference=self._to(task)) if task.index in elsewhere else task for task in tasks]

    def _to(self, task: ActionTask) -> dict[str, Any]:
        assert task.result is not None and task.plain is not None  # noqa: S101, PT018 - it has a value
        part = task.plain.reference
        return {
            "href": f"{self.base_url}/api/v1/tasks/{task.task_id}/result",
            "size": _size(task),
            "sha256": hashlib.sha256(task.result.value).hexdigest() if part is None else part.digest,
            "expires_at": timestamp(task.stored_at + self.kept_s),
        }


def _size(task: ActionTask) -> int:
    """How long the value is as JSON."""
    assert task.result is not None and task.plain is not None  # noqa: S101, PT018 - it has a value
    part = task.plain.reference
    return len(task.result.value) if part is None else part.size
