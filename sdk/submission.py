"""How tasks are submitted, as `Executor.with_options` says it: their options, and what happens without room."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.bus.tasks import options
from headrace.bus.tasks.bundles import TaskOptions
from headrace.sdk.limits import BLOCK, WhenFull


class Keep(enum.Enum):
    """Stands for an option that is not given: what was set before stays."""

    KEEP = "as it is"

    def __repr__(self) -> str:
        return "KEEP"


KEEP = Keep.KEEP


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The options of what is submitted through one executor or view."""

    task: TaskOptions = field(default_factory=TaskOptions)
    when_full: WhenFull = BLOCK
    has_resources: bool = False
    """Whether the resource specification of `task` counts, also where it is none, and not the executor's."""

    def changed(self, changes: Mapping[str, Any]) -> Submission:
        """These options with changes, named as in `Executor.with_options`; those that are `KEEP` are none.

        Raises `TypeError` and `ValueError`, naming the option, for a value that cannot be.
        """
        given = {name: value for name, value in changes.items() if value is not KEEP}
        when_full = WhenFull.of(
            given.pop("when_full", self.when_full.name), given.pop("full_timeout_s", self.when_full.timeout_s)
        )
        task, has_resources = self.task, self.has_resources or "resource_specification" in given
        if "resource_specification" in given:
            task = options.with_resources(task, given.pop("resource_specification"))
        return Submission(task=options.changed(task, given), when_full=when_full, has_resources=has_resources)
