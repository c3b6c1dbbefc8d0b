"""The `config.yaml` of an endpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from headrace.bus.sizes import parse_size
from headrace.endpoint.configuration.engine_keys import engine_problems
from headrace.endpoint.configuration.watch_keys import watch_problems
from headrace.endpoint.configuration.worker_keys import sandbox_problems, size_problems
from headrace.endpoint.configuration.yaml_file import NO_EFFECT, YamlFile, read_text
from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.endpoint.environments.policy import EnvironmentPolicy
from headrace.endpoint.fair_share import FairShare
from headrace.endpoint.watch.rules import FolderRule, folder_rules
from headrace.schemas import schema


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """What an administrator set in `config.yaml`."""

    display_name: str | None = None
    public: bool = False
    shared_with: tuple[str, ...] = ()
    allowed_functions: tuple[UUID, ...] | None = None
    """The only functions that run here; None allows all."""
    allowed_function_owners: tuple[str, ...] | None = None
    """Principals whose functions may all run here, besides those; None when only those count."""
    authentication_policy: Mapping[str, Any] | None = None
    """How users must have signed in, as the service takes it; None is in any way."""
    audit_log_path: str | None = None
    """Where each task leaves a line; None is nowhere."""
    identity_mapping_config_path: str | None = None
    """Who is which local user; None runs everything as whoever starts the endpoint."""
    queue_limits: Mapping[str, int] = field(default_factory=dict)
    fair_share: FairShare = field(default_factory=FairShare)
    workers: int | None = None
    """None is one for each processor."""
    python: str | None = None
    """The workers' interpreter; None is the manager's own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to what the workers inherit."""
    worker_memory_limit: int | None = None
    """Bytes."""
    max_tasks_per_worker: int | None = None
    sandbox: bool = False
    keep_failed_sandboxes: bool = False
    task_log_limit_bytes: int = PRINTED_LIMIT
    """How much is kept of what one run of a task prints; 0 keeps nothing."""
    log_level: str = "info"
    engine: Mapping[str, Any] = field(default_factory=dict)
    """What runs the tasks where no template says it, as `headrace.endpoint.engines` reads it; empty is the default."""
    max_pools: int = 20
    max_pools_per_principal: int = 5
    user_config_template_path: str | None = None
    user_config_schema_path: str | None = None
    environments: EnvironmentPolicy = field(default_factory=EnvironmentPolicy)
    """Which packages functions may bring along."""
    watch: tuple[FolderRule, ...] = ()
    """Folders whose files are announced."""

    @property
    def worker_count(self) -> int:
        """How many workers to start on this machine."""
        return self.workers or len(os.sched_getaffinity(0))

    @classmethod
    def read(cls, path: Path) -> EndpointConfig:
        """Read a file. Raises `ConfigInvalid`, which names file, line, key and problem."""
        return cls.parse(read_text(path), name=str(path))

    @classmethod
    def parse(cls, text: str, *, name: str = "config.yaml") -> EndpointConfig:
        """Read a text. Raises `ConfigInvalid`, which names line, key and problem."""
        file = YamlFile.parse(text, name=name)
        file.check("endpoint-config")
        file.refuse([*size_problems(file), *sandbox_problems(file), *engine_problems(file), *watch_problems(file)])
        return cls._of_document(file.document)

    @classmethod
    def _of_document(cls, document: dict[str, Any]) -> EndpointConfig:
        described = schema("endpoint-config")["properties"]
        fields = {key: value for key, value in document.items() if NO_EFFECT not in described[key]}
        if fields.pop("debug", False):
            fields["log_level"] = "debug"
        if fields.get("workers") == "auto":
            del fields["workers"]
        if "allowed_functions" in fields:
            fields["allowed_functions"] = tuple(UUID(function) for function in fields["allowed_functions"])
        if isinstance(fields.get("authentication_policy"), str):
            # As Globus Compute has it: a policy of Globus Auth, by its id.
            fields["authentication_policy"] = {"policy_id": fields["authentication_policy"].lower()}
        for key in ("shared_with", "allowed_function_owners"):
            if key in fields:
                fields[key] = tuple(fields[key])
        if "fair_share" in fields:
            fields["fair_share"] = FairShare.of_document(fields["fair_share"])
        if "environment" in fields:
            fields["environment"] = {key: str(value) for key, value in fields["environment"].items()}
        if "environments" in fields:
            fields["environments"] = EnvironmentPolicy.of_document(fields["environments"])
        if "watch" in fields:
            fields["watch"] = folder_rules(fields["watch"])
        if "worker_memory_limit" in fields:
            fields["worker_memory_limit"] = parse_size(fields["worker_memory_limit"])
        if "python" in fields:
            fields["python"] = os.path.expanduser(fields["python"])
        return cls(**fields)
