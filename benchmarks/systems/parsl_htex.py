"""Parsl with its HighThroughputExecutor: the pilot-job system that Globus Compute endpoints run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from benchmarks.systems import WORKERS


class ParslHtex:
    """`@python_app` on one HighThroughputExecutor with one block on this machine."""

    def __init__(self, work: Path) -> None:
        self._run_dir = work / "parsl"
        self._apps: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._started = False

    def start(self) -> None:
        executor = HighThroughputExecutor(
            label="htex",
            address="127.0.0.1",
            max_workers_per_node=WORKERS,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )
        parsl.load(Config(executors=[executor], run_dir=str(self._run_dir), initialize_logging=False, usage_tracking=0))
        self._started = True

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        app = self._apps.get(function)
        if app is None:
            app = self._apps[function] = parsl.python_app(function)
        return app(*args)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def stop(self) -> None:
        if self._started:
            parsl.dfk().cleanup()
