"""Makes the engine that the settings of a pool ask for."""

from __future__ import annotations

import sys
from dataclasses import replace

from headrace.endpoint.engines.containers.runtimes import Container
from headrace.endpoint.engines.engine import Engine, OutcomesCallback, Source
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.processes.engine import ProcessEngine
from headrace.endpoint.engines.processes.worker_process import ACCELERATOR_VARIABLES
from headrace.endpoint.engines.settings import (
    EngineSettings,
    ProcessSettings,
)
from headrace.endpoint.errors import EngineSettingsInvalid, SettingProblem


def build(settings: EngineSettings, source: Source, on_outcomes: OutcomesCallback, means: Means) -> Engine:
    """The engine, not started. What it needs and does not find it says to each task."""
    if settings.allowed_serializers:
        limits = replace(means.limits, serializers=tuple(settings.allowed_serializers))
        means = replace(means, limits=limits)
    if isinstance(settings, ProcessSettings):
        return _process_engine(settings, source, on_outcomes, means)
    # Most pools have none, and should not load them.
    from headrace.endpoint.engines.grids.build import grid_of
    from headrace.endpoint.engines.grids.engine import GridEngine

    grid = grid_of(settings, means)
    return GridEngine(source, on_outcomes, grid, on_output=means.on_output, most_losses=settings.most_losses)


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
