"""The standard library's process pool: no network, no storage; what a call between processes costs at least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from benchmarks.systems import WORKERS


class ProcessPool:
    """`concurrent.futures.ProcessPoolExecutor`."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> None:
        self._pool = ProcessPoolExecutor(max_workers=WORKERS)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        assert self._pool is not None
        return self._pool.submit(function, *args)

    def results(self, handles: Sequence[Future[Any]]) -> list[Any]:
        return [handle.result() for handle in handles]

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
