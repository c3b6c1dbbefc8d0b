"""What a pool gives its engine, whatever kind it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.bus.data.encodings import INLINE_BYTES
from headrace.endpoint.engines.engine import OutputCallback
from headrace.endpoint.engines.processes.cgroups import MemoryGroups
from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.endpoint.worker.limits import WorkerLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a pool gives its engine, whatever kind it is. None inherits, or is without."""

    workers: int
    """How many tasks run at a time, where the engine's settings do not say."""
    python: str = sys.executable
    environment: Mapping[str, str] | None = None
    """All that workers on this machine find."""
    added_environment: Mapping[str, str] = field(default_factory=dict)
    """What workers elsewhere find besides what is there."""
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    memory_groups: MemoryGroups | None = None
    on_output: OutputCallback | None = None
    """Gets what tasks print."""
    most_output_bytes: int = PRINTED_LIMIT
    spool: Path | None = None
    """Where large payloads lie."""
    inline_bytes: int = INLINE_BYTES
    """What is larger lies there."""
    directory: Path | None = None
    """For the files of the engine itself."""
