"""Makes the engine that the settings of a pool ask for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from headrace.bus.encodings import INLINE_BYTES
from headrace.bus.serializers import Allowed
from headrace.endpoint.engines.containers.runtimes import Container
from headrace.endpoint.engines.engine import Engine, OutcomesCallback, OutputCallback, Source
from headrace.endpoint.engines.grids.courier import Courier
from headrace.endpoint.engines.grids.dask import DaskGrid
from headrace.endpoint.engines.grids.engine import GridEngine
from headrace.endpoint.engines.grids.grid import Grid
from headrace.endpoint.engines.grids.parsl import ParslGrid
from headrace.endpoint.engines.grids.threads import ThreadGrid
from headrace.endpoint.engines.grids.unavailable import Unavailable
from headrace.endpoint.engines.processes.cgroups import MemoryGroups
from headrace.endpoint.engines.processes.engine import ProcessEngine
from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.endpoint.engines.processes.worker_process import ACCELERATOR_VARIABLES
from headrace.endpoint.engines.settings import (
    DaskSettings,
    EngineSettings,
    ParslSettings,
    ProcessSettings,
    ThreadSettings,
)
from headrace.endpoint.errors import EngineSettingsInvalid, SettingProblem
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


def build(settings: EngineSettings, source: Source, on_outcomes: OutcomesCallback, means: Means) -> Engine:
    """The engine, not started. What it needs and does not find it says to each task."""
    if settings.allowed_serializers:
        limits = replace(means.limits, serializers=tuple(settings.allowed_serializers))
        means = replace(means, limits=limits)
    grid = _grid(settings, means)
    if grid is None:
        assert isinstance(settings, ProcessSettings)  # noqa: S101 - all others have a grid
        return _process_engine(settings, source, on_outcomes, means)
    return GridEngine(source, on_outcomes, grid, on_output=means.on_output, most_losses=settings.most_losses)


def _grid(settings: EngineSettings, means: Means) -> Grid | None:
    """Where an engine's tasks run, unless it is in processes of its own."""
    if isinstance(settings, ParslSettings) and settings.container_type is not None:
        # Never outside of the container that was asked for.
        return Unavailable(
            f"container_type is {settings.container_type}, and a {settings.type} of this release cannot start workers"
            " in containers"
        )
    if isinstance(settings, ThreadSettings):
        return _thread_grid(settings, means)
    if isinstance(settings, DaskSettings):
        return DaskGrid(settings, _courier(means), workers=means.workers)
    if isinstance(settings, ParslSettings):
        return ParslGrid(settings, _courier(means), means.directory or Path.cwd())
    return None


def _thread_grid(settings: ThreadSettings, means: Means) -> Grid:
    if means.python != sys.executable:
        return Unavailable(f"threads run in the endpoint's own Python, not in {means.python}: choose another engine")
    return ThreadGrid(
        settings.max_workers or means.workers,
        spool=means.spool,
        inline_bytes=means.inline_bytes,
        most_output_bytes=means.most_output_bytes if means.on_output else 0,
        allowed=Allowed.of(means.limits.serializers),
    )


def _courier(means: Means) -> Courier:
    return Courier(
        python="" if means.python == sys.executable else means.python,
        environment=means.added_environment,
        limits=means.limits,
        most_output_bytes=means.most_output_bytes if means.on_output else 0,
        spool=means.spool,
        inline_bytes=means.inline_bytes,
    )


def _process_engine(
    settings: ProcessSettings, source: Source, on_outcomes: OutcomesCallback, means: Means
) -> ProcessEngine:
    accelerators = settings.accelerators
    workers = settings.max_workers_per_node or (len(accelerators) if accelerators else means.workers)
    return ProcessEngine(
        source,
        on_outcomes,
        workers=min(workers, len(accelerators)) if accelerators else workers,
        python=means.python,
        most_losses=settings.most_losses,
        environment=means.environment,
        accelerators=accelerators,
        setup=settings.worker_init,
        on_output=means.on_output,
        most_output_bytes=means.most_output_bytes,
        limits=means.limits,
        memory_groups=means.memory_groups,
        spool=means.spool,
        inline_bytes=means.inline_bytes,
        container=_container_of(settings, means),
    )


def _container_of(settings: ProcessSettings, means: Means) -> Container | None:
    if settings.container_type is None:
        return None
    if means.directory is None:
        raise EngineSettingsInvalid([SettingProblem(("engine", "container_type"), "needs a directory of the pool")])
    # A Python that nobody chose is that of the pool, which no image has at its path.
    python = "python3" if means.python == sys.executable else means.python
    accelerators = ACCELERATOR_VARIABLES if settings.accelerators else ()
    return Container(
        kind=settings.container_type,
        image=settings.container_uri or "",
        options=settings.container_cmd_options or "",
        directory=means.directory,
        python=python,
        variables=(*means.added_environment, *accelerators),
    )
