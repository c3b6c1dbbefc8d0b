"""The configuration of one pool: what a rendered template says, on top of what `config.yaml` says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.configuration.engine_keys import engine_problems
from headrace.endpoint.configuration.worker_keys import sandbox_problems, size_problems
from headrace.endpoint.configuration.yaml_file import NO_EFFECT, YamlFile
from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.endpoint.worker.limits import parse_size
from headrace.schemas import schema

_SCHEMA: Final = "pool-config"
_HEARTBEAT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """How one pool is made. Compared by what it says, not by where that is written."""

    display_name: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    """As it is written, for `headrace.endpoint.engines`; empty is the default engine."""
    allowed_functions: tuple[UUID, ...] | None = None
    """The only functions that run here; None allows all."""
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
            allowed_functions=config.allowed_functions,
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
        if "allowed_functions" in said:
            said["allowed_functions"] = self._narrowed(tuple(map(UUID, said["allowed_functions"])))
        if said.get("workers") == "auto":
            said["workers"] = None
        if "worker_memory_limit" in said:
            said["worker_memory_limit"] = parse_size(said["worker_memory_limit"])
        if "python" in said:
            said["python"] = os.path.expanduser(said["python"])
        if "environment" in said:
            said["environment"] = {**self.environment, **{key: str(each) for key, each in said["environment"].items()}}
        return said

    def _narrowed(self, wanted: tuple[UUID, ...]) -> tuple[UUID, ...]:
        """A template cannot allow what `config.yaml` does not."""
        if self.allowed_functions is None:
            return wanted
        return tuple(function for function in wanted if function in self.allowed_functions)

    def document(self) -> dict[str, Any]:
        """All that makes a difference, as JSON: two configurations are the same when these are."""
        allowed = self.allowed_functions
        return {
            "display_name": self.display_name,
            "engine": dict(self.engine),
            "allowed_functions": None if allowed is None else sorted(map(str, allowed)),
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
