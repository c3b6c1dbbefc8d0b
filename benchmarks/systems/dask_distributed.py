"""Dask distributed: a scheduler and two worker processes of one thread each on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from benchmarks.systems import WORKERS


class DaskDistributed:
    """`Client.submit` and `Client.gather` on a `LocalCluster`."""

    def __init__(self, work: Path) -> None:
        self._directory = work / "dask"
        self._cluster: Any = None
        self._client: Any = None

    def start(self) -> None:
        # It advises to scatter large arguments beforehand; here they are to travel with the call.
        warnings.filterwarnings("ignore", message="Sending large graph")
        self._cluster = LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(self._directory),
        )
        self._client = Client(self._cluster)

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        # Not pure: equal calls would run only once.
        return self._client.submit(function, *args, pure=False)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return list(self._client.gather(list(handles)))

    def stop(self) -> None:
        for each in (self._client, self._cluster):
            if each is not None:
                each.close()
