"""Ray: remote functions on a local cluster with two processors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import ray

from benchmarks.systems import WORKERS


class RayCore:
    """`ray.remote` and `ray.get`."""

    def __init__(self) -> None:
        self._remotes: dict[Callable[..., Any], Any] = {}

    def start(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        remote = self._remotes.get(function)
        if remote is None:
            remote = self._remotes[function] = ray.remote(function)
        return remote.remote(*args)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return list(ray.get(list(handles)))

    def stop(self) -> None:
        ray.shutdown()
