"""The Dask engine on a cluster that somebody else runs: a scheduler and workers as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from engine_bench import running
from waiting import eventually, eventually_async

from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.engines.build import build
from headrace.endpoint.engines.grids import dask
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.settings import engine_settings

# Looked for, not loaded: each of the processes that tests run in would do that.
_OLDER = pytest.mark.skipif(
    not find_spec("distributed"), reason="this environment is older than the extra `dask`, which `dev` has"
)
pytestmark = [pytest.mark.anyio, _OLDER]


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()

    def start_scheduler(self, port: str = "0") -> None:
        self._start("dask_scheduler", "--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0")

    def address(self) -> str:
        def read() -> str | None:
            return str(json.loads(self.file.read_text() or "{}").get("address", "")) if self.file.exists() else None

        return eventually(read, 20) or ""

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", "--no-nanny", "--nthreads", "2", "--dashboard-address", "127.0.0.1:0")

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{program}", "--scheduler-file", str(self.file), *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        cluster.end()


def dask_engine(address: str) -> Any:
    settings = engine_settings({"type": "DaskEngine", "address": address})
    return lambda source, tell, workers: build(settings, source, tell, Means(workers=workers))


def hold(folder: str) -> int:
    with (Path(folder) / "starts").open("a") as file:
        file.write("x")
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)  # in a worker: until the test lets it end
    return os.getppid()


async def test_calls_of_a_worker_that_dies_run_on_another_one_unless_they_must_not_run_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
    first = cluster.start_worker()
    async with running(2, engine_of=dask_engine(cluster.address())) as bench:
        once = bench.submit(hold, str(tmp_path / "once"), options=TaskOptions(rerun_on_loss=False))
        again = bench.submit(hold, str(tmp_path / "again"))
        for name in ("once", "again"):
            await eventually_async((tmp_path / name / "starts").exists, 20, "both calls run")

        os.killpg(first.pid, signal.SIGKILL)
        second = cluster.start_worker()
        await eventually_async(lambda: (tmp_path / "again" / "starts").read_text() == "xx", 20)
        (tmp_path / "again" / "go").touch()

        assert (await bench.failure(once)).code == "TaskLost"
        assert (tmp_path / "once" / "starts").read_text() == "x"
        assert await bench.value(again) == second.pid, "calls are children of the worker"


async def test_calls_wait_for_a_cluster_that_is_started_again(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_worker()
    address = cluster.address()
    async with running(1, engine_of=dask_engine(address)) as bench:
        runs, waits = bench.submit(hold, str(tmp_path)), bench.submit(os.getpid)
        await eventually_async((tmp_path / "starts").exists, 20)

        cluster.end()
        await eventually_async(lambda: not bench.engine.load().workers, 20, "the cluster is missed")
        cluster.start_scheduler(address.rpartition(":")[2])
        worker = cluster.start_worker()
        (tmp_path / "go").touch()

        assert await bench.value(runs) == worker.pid
        assert await bench.value(waits)


async def test_a_scheduler_that_is_not_there_is_told_with_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "_CONNECT_S", 0.3)
    async with running(1, engine_of=dask_engine("tcp://127.0.0.1:1")) as bench:
        key = bench.submit(hold, "")
        outcome = await bench.outcome(key, within_s=30)

        assert outcome.attempts == 0
        message = (await bench.failure(key)).message
        assert (
            "no worker can be started on this endpoint: the Dask cluster (tcp://127.0.0.1:1) cannot be used" in message
        )
