"""The configuration of one pool: what a rendered template says, on top of what `config.yaml` says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from headrace.bus.functions.allow_list import AllowList
from headrace.bus.sizes import parse_size
from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.configuration.engine_keys import engine_problems
from headrace.endpoint.configuration.worker_keys import sandbox_problems, size_problems
from headrace.endpoint.configuration.yaml_file import NO_EFFECT, YamlFile
from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.schemas import schema

_SCHEMA: Final = "pool-config"
_HEARTBEAT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """How one pool is made. Compared by what it says, not by where that is written."""

    display_name: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    """As it is written, for `headrace.endpoint.engines`; empty is the default engine."""
    allow_lists: tuple[AllowList, ...] = ()
    """That of config.yaml and that of the template, where there are any: a function must be let in by both."""
    audit_log_path: str | None = None
    """Where each task leaves a line; None is nowhere. Not a matter of templates."""
    idle_soft_s: float = 300.0
    """The pool is stopped when it had nothing to do for so long; 0 is never."""
    idle_hard_s: float = 172_800.0
    """The pool is stopped when nothing moved for so long, although it has tasks; 0 is never."""
    endpoint_setup: str | None = None
    endpoint_teardown: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to what the pool and its workers inherit."""
    workers: int | None = None
    """None is one for each processor."""
    python: str | None = None
    worker_memory_limit: int | None = None
    """Bytes."""
    max_tasks_per_worker: int | None = None
    sandbox: bool = False
    keep_failed_sandboxes: bool = False
    task_log_limit_bytes: int = PRINTED_LIMIT
    log_level: str = "info"
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What is written and has no effect, and why."""
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    """The line of each JSON pointer, `/engine/type`, in the rendered text."""

    @property
    def worker_count(self) -> int:
        """How many workers to start on this machine."""
        return self.workers or len(os.sched_getaffinity(0))

    @classmethod
    def of_endpoint(cls, config: EndpointConfig, environment: Mapping[str, str]) -> PoolConfig:
        """What `config.yaml` alone says; `environment` is that of `user_environment.yaml`."""
        return cls(
            display_name=config.display_name,
            engine=config.engine,
            allow_lists=_lists(AllowList.of(config.allowed_functions, config.allowed_function_owners)),
            audit_log_path=config.audit_log_path,
            environment={**config.environment, **environment},
            workers=config.workers,
            python=config.python,
            worker_memory_limit=config.worker_memory_limit,
            max_tasks_per_worker=config.max_tasks_per_worker,
            sandbox=config.sandbox,
            keep_failed_sandboxes=config.keep_failed_sandboxes,
            task_log_limit_bytes=config.task_log_limit_bytes,
            log_level=config.log_level,
        )

    def parse(self, text: str, *, name: str) -> PoolConfig:
        """This configuration with what a rendered text says. Raises `ConfigInvalid`, naming line, key and problem."""
        file = YamlFile.parse(text, name=name)
        file.check(_SCHEMA)
        file.refuse([*size_problems(file), *sandbox_problems(file), *engine_problems(file)])
        described = schema(_SCHEMA)["properties"]
        said = {key: value for key, value in file.document.items() if NO_EFFECT not in described[key]}
        return replace(self, **self._fields(said), notes=tuple(file.without_effect(_SCHEMA)), lines=dict(file.lines))

    def _fields(self, said: dict[str, Any]) -> dict[str, Any]:
        period_s = said.pop("heartbeat_period", _HEARTBEAT_S)
        for kind in ("soft", "hard"):
            beats = said.pop(f"idle_heartbeats_{kind}", None)
            if beats is not None:
                said.setdefault(f"idle_{kind}_s", beats * period_s)
        if said.pop("debug", False):
            said["log_level"] = "debug"
        # A template cannot allow what config.yaml does not.
        said["allow_lists"] = (
            *self.allow_lists,
            *_lists(AllowList.of(said.pop("allowed_functions", None), said.pop("allowed_function_owners", None))),
        )
        if said.get("workers") == "auto":
            said["workers"] = None
        if "worker_memory_limit" in said:
            said["worker_memory_limit"] = parse_size(said["worker_memory_limit"])
        if "python" in said:
            said["python"] = os.path.expanduser(said["python"])
        if "environment" in said:
            said["environment"] = {**self.environment, **{key: str(each) for key, each in said["environment"].items()}}
        return said

    def document(self) -> dict[str, Any]:
        """All that makes a difference, as JSON: two configurations are the same when these are."""
        return {
            "display_name": self.display_name,
            "engine": dict(self.engine),
            "allow_lists": [each.document() for each in self.allow_lists],
            "audit_log_path": self.audit_log_path,
            "idle_soft_s": self.idle_soft_s,
            "idle_hard_s": self.idle_hard_s,
            "endpoint_setup": self.endpoint_setup,
            "endpoint_teardown": self.endpoint_teardown,
            "environment": dict(self.environment),
            "workers": self.workers,
            "python": self.python,
            "worker_memory_limit": self.worker_memory_limit,
            "max_tasks_per_worker": self.max_tasks_per_worker,
            "sandbox": self.sandbox,
            "keep_failed_sandboxes": self.keep_failed_sandboxes,
            "task_log_limit_bytes": self.task_log_limit_bytes,
            "log_level": self.log_level,
        }


def _lists(said: AllowList) -> tuple[AllowList, ...]:
    return () if said.is_open else (said,)
