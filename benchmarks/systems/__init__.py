"""The systems that are measured, one module each, behind one protocol.

The module of a peer is imported only by the process that measures it, in the virtual environment that has the peer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

WORKERS = 2
"""Worker processes of each system."""


class System(Protocol):
    """Runs functions in two worker processes. Made without work; `start` and `stop` are called once each."""

    def start(self) -> None:
        """Start everything that is needed to run a function."""

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Hand one call over without waiting for it; gives a handle for `results`."""

    def results(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for these calls and give their values, in order, the way this system's users do it fastest."""

    def stop(self) -> None:
        """Stop everything that was started; also after a `start` that failed half-way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A system by name. `distribution` is the package whose version is reported; None is Python itself."""

    name: str
    title: str
    distribution: str | None
    make: Callable[[Path], System]
    peer: bool = True
    """Lives in the virtual environment of the peers."""
    runs_functions: bool = True
    """False for a system that has an action provider and nothing else."""


def _headrace(work: Path) -> System:
    from benchmarks.systems.headrace import Headrace

    return Headrace(work)


def _headrace_relaxed(work: Path) -> System:
    from benchmarks.systems.headrace import Headrace

    return Headrace(work, durability="relaxed")


def _headrace_on_parsl(work: Path) -> System:
    from benchmarks.systems.headrace import Headrace
    from benchmarks.systems.parsl_engine import ENGINE

    return Headrace(work, engine=ENGINE)


def _parsl_engine(work: Path) -> System:
    from benchmarks.systems.parsl_engine import ParslEngineAlone

    return ParslEngineAlone(work)


def _process_pool(work: Path) -> System:
    from benchmarks.systems.process_pool import ProcessPool

    return ProcessPool()


def _parsl(work: Path) -> System:
    from benchmarks.systems.parsl_htex import ParslHtex

    return ParslHtex(work)


def _dask(work: Path) -> System:
    from benchmarks.systems.dask_distributed import DaskDistributed

    return DaskDistributed(work)


def _ray(work: Path) -> System:
    from benchmarks.systems.ray_core import RayCore

    return RayCore()


def _toolkit(work: Path) -> System:
    from benchmarks.systems.toolkit import Toolkit

    return Toolkit(work)


OURS = "headrace"
"""The system that the others are compared with."""

SYSTEMS = {
    entry.name: entry
    for entry in (
        Entry(name=OURS, title="Headrace", distribution="headrace", make=_headrace, peer=False),
        Entry(
            name="headrace-relaxed",
            title="Headrace relaxed",
            distribution="headrace",
            make=_headrace_relaxed,
            peer=False,
        ),
        Entry(
            name="headrace-parsl",
            title="Headrace on Parsl",
            distribution="parsl",
            make=_headrace_on_parsl,
            peer=False,
        ),
        Entry(name="parsl-engine", title="ParslEngine", distribution="parsl", make=_parsl_engine, peer=False),
        Entry(name="process-pool", title="ProcessPool", distribution=None, make=_process_pool, peer=False),
        Entry(name="parsl", title="Parsl HTEX", distribution="parsl", make=_parsl),
        Entry(name="dask", title="Dask", distribution="distributed", make=_dask),
        Entry(name="ray", title="Ray", distribution="ray", make=_ray),
        Entry(
            name="toolkit",
            title="Toolkit's sample",
            distribution="globus-action-provider-tools",
            make=_toolkit,
            runs_functions=False,
        ),
    )
}
