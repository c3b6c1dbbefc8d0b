"""The `config.yaml` of an endpoint."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.endpoint.errors import ConfigInvalid
from headrace.endpoint.fair_share import FairShare
from headrace.endpoint.worker.limits import LEAST_MEMORY_BYTES, parse_size, shown_size
from headrace.schemas import SchemaViolation, schema, validate

TEMPLATE = """\
# The configuration of this endpoint. Restart the endpoint after a change. Lines with a # show the defaults.

# What people see.
display_name: {name}

# Who may run functions here, besides you: everybody with an account, or these users and groups.
# public: false
# shared_with: [urn:headrace:user:grace]

# The only functions that may run here. Without this line all may.
# allowed_functions: [00000000-0000-0000-0000-000000000000]

# How much may be queued here, of each user and of all together: bundles of one task or more.
# queue_limits:
#   bundles_per_principal: 10000
#   bundles: 50000

# Users take turns. Some may have more turns than others, and nobody need have all workers.
# fair_share:
#   weights:
#     urn:headrace:user:grace: 2
#   most_running_per_principal: 4

# How many tasks run at a time. `auto` is one for each processor.
workers: auto

# The Python of the workers, which must have headrace installed; by default the one that runs the endpoint.
# python: /opt/science/bin/python

# Variables that the workers find in their environment, besides those of whoever starts the endpoint.
# environment:
#   OMP_NUM_THREADS: 1

# The memory of each worker; a task that needs more fails. A number of bytes, or one with MB, GB, MiB or GiB.
# worker_memory_limit: 2GB

# Replace a worker after so many tasks, for functions that leak memory.
# max_tasks_per_worker: 1000

# Run each task in an empty directory of its own, which is removed when the task has ended.
# sandbox: false

# Leave the directories of failed tasks where they are, for you to look into and to remove.
# keep_failed_sandboxes: false

# How much is kept of what one run of a task prints. With 0 it goes to the log of the endpoint instead.
# task_log_limit_bytes: 1048576

# debug, info, warning or error
# log_level: info
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """What an administrator set in `config.yaml`."""

    display_name: str | None = None
    public: bool = False
    shared_with: tuple[str, ...] = ()
    allowed_functions: tuple[UUID, ...] | None = None
    """The only functions that run here; None allows all."""
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

    @property
    def worker_count(self) -> int:
        """How many workers to start on this machine."""
        return self.workers or len(os.sched_getaffinity(0))

    @classmethod
    def read(cls, path: Path) -> EndpointConfig:
        """Read a file. Raises `ConfigInvalid`, which names file, line, key and problem."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{path} cannot be read: {error}") from error
        return cls.parse(text, name=str(path))

    @classmethod
    def parse(cls, text: str, *, name: str = "config.yaml") -> EndpointConfig:
        """Read a text. Raises `ConfigInvalid`, which names line, key and problem."""
        document, lines = _load(text, name)
        problems = _unknown_keys(document, lines)
        if not problems:
            problems = _violations(document, lines) or [
                *_size_problems(document, lines),
                *_sandbox_problems(document, lines),
            ]
        if problems:
            raise ConfigInvalid("\n".join(f"{name}, {problem}" for problem in problems))
        return cls._of_document(document)

    @classmethod
    def _of_document(cls, document: dict[str, Any]) -> EndpointConfig:
        fields = dict(document)
        if fields.get("workers") == "auto":
            del fields["workers"]
        if "allowed_functions" in fields:
            fields["allowed_functions"] = tuple(UUID(function) for function in fields["allowed_functions"])
        if "shared_with" in fields:
            fields["shared_with"] = tuple(fields["shared_with"])
        if "fair_share" in fields:
            fields["fair_share"] = FairShare.of_document(fields["fair_share"])
        if "environment" in fields:
            fields["environment"] = {key: str(value) for key, value in fields["environment"].items()}
        if "worker_memory_limit" in fields:
            fields["worker_memory_limit"] = parse_size(fields["worker_memory_limit"])
        if "python" in fields:
            fields["python"] = os.path.expanduser(fields["python"])
        return cls(**fields)


def _load(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The document, and for each JSON pointer into it the line where it stands."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigInvalid(f"{name}, {line}not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # `2026-13-45` looks like a date and is none; an alias may lead to itself.
        raise ConfigInvalid(f"{name}, not valid YAML: {error}") from error
    if root is None or document is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigInvalid(f"{name}, line {root.start_mark.line + 1}: expected `key: value` lines")
    lines: dict[str, int] = {}
    try:
        _note_lines(root, "", lines, name)
    except RecursionError:
        raise ConfigInvalid(f"{name}, not valid YAML here: an alias leads to itself") from None
    # What a key that is not a text (`1:`, `yes:`) would break further on is an unknown key like any other.
    return {str(key): value for key, value in document.items()}, lines


def _note_lines(node: yaml.Node, pointer: str, lines: dict[str, int], name: str) -> None:
    lines.setdefault(pointer, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{pointer}/{_escaped(str(key.value))}"
            if below in lines:
                # YAML would let the last one win without a word.
                raise ConfigInvalid(
                    f"{name}, line {key.start_mark.line + 1}: the key '{key.value}' is there twice, "
                    f"first in line {lines[below]}"
                )
            lines[below] = key.start_mark.line + 1
            _note_lines(value, below, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            _note_lines(item, f"{pointer}/{place}", lines, name)


def _unknown_keys(document: dict[str, Any], lines: dict[str, int]) -> list[str]:
    known = list(schema("endpoint-config")["properties"])
    problems = []
    for key in document:
        if key not in known:
            likely = difflib.get_close_matches(key, known, n=1)
            advice = f"did you mean '{likely[0]}'?" if likely else f"the keys are {', '.join(known)}"
            problems.append(f"line {lines.get('/' + _escaped(key), 1)}: unknown key '{key}'; {advice}")
    return problems


def _violations(document: dict[str, Any], lines: dict[str, int]) -> list[str]:
    try:
        validate("endpoint-config", document)
    except SchemaViolation as error:
        return [
            f"line {lines.get(violation.pointer, 1)}: {violation.pointer.lstrip('/')}: {violation.problem}"
            for violation in error.violations
        ]
    return []


def _size_problems(document: dict[str, Any], lines: dict[str, int]) -> list[str]:
    if "worker_memory_limit" not in document:
        return []
    try:
        size = parse_size(document["worker_memory_limit"])
    except ValueError as error:
        problem = str(error)
    else:
        if size >= LEAST_MEMORY_BYTES:
            return []
        problem = f"{size} bytes are too few: a worker needs {shown_size(LEAST_MEMORY_BYTES)} at least"
    return [f"line {lines.get('/worker_memory_limit', 1)}: worker_memory_limit: {problem}"]


def _sandbox_problems(document: dict[str, Any], lines: dict[str, int]) -> list[str]:
    if not document.get("keep_failed_sandboxes") or document.get("sandbox"):
        return []
    line = lines.get("/keep_failed_sandboxes", 1)
    return [f"line {line}: keep_failed_sandboxes: there are none to keep without `sandbox: true`; add that line"]


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
