"""Makes the grid that the settings of a pool ask for."""

from __future__ import annotations

import sys
from pathlib import Path

from headrace.bus.functions.serializers import Allowed
from headrace.endpoint.engines.grids.grid import Grid
from headrace.endpoint.engines.grids.orders import Boxed
from headrace.endpoint.engines.grids.unavailable import Unavailable
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.processes.worker_process import ACCELERATOR_VARIABLES
from headrace.endpoint.engines.settings import DaskSettings, EngineSettings, ParslSettings, ThreadSettings


def grid_of(settings: EngineSettings, means: Means) -> Grid:
    """Where the tasks of an engine run that has no processes of its own. Each is loaded only by those who use it."""
    if isinstance(settings, ThreadSettings):
        return _threads(settings, means)
    if isinstance(settings, DaskSettings):
        return _dask(settings, means)
    if isinstance(settings, ParslSettings):
        return _parsl(settings, means)
    return Unavailable(f"{settings.type} cannot be run by this release")


def _threads(settings: ThreadSettings, means: Means) -> Grid:
    from headrace.endpoint.engines.grids.threads import ThreadGrid

    if means.python != sys.executable:
        return Unavailable(f"threads run in the endpoint's own Python, not in {means.python}: choose another engine")
    return ThreadGrid(
        settings.max_workers or means.workers,
        spool=means.spool,
        inline_bytes=means.inline_bytes,
        most_output_bytes=means.most_output_bytes if means.on_output else 0,
        allowed=Allowed.of(means.limits.serializers),
    )


def _dask(settings: DaskSettings, means: Means) -> Grid:
    from headrace.endpoint.engines.grids.courier import Courier
    from headrace.endpoint.engines.grids.dask import DaskGrid

    return DaskGrid(settings, Courier.of(means), workers=means.workers)


def _parsl(settings: ParslSettings, means: Means) -> Grid:
    from headrace.endpoint.engines.grids.courier import Courier
    from headrace.endpoint.engines.grids.parsl import ParslGrid

    if settings.container_type is None:
        return ParslGrid(settings, Courier.of(means), means.directory or Path.cwd())
    if settings.is_mpi:
        # Never outside of the container that was asked for.
        return Unavailable(
            f"container_type is {settings.container_type}, and a {settings.type} of this release cannot start MPI"
            " functions in containers: start the container in the function's command"
        )
    boxed = Boxed(
        kind=settings.container_type,
        image=settings.container_uri or "",
        options=settings.container_cmd_options or "",
        # A Python that nobody chose is that of the pool, which no image has at its path.
        python="python3" if means.python == sys.executable else means.python,
        variables=[*means.added_environment, *ACCELERATOR_VARIABLES],
    )
    return ParslGrid(settings, Courier.of(means, boxed), means.directory or Path.cwd())
