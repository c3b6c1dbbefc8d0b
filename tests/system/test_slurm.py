"""An endpoint on a real Slurm with two nodes: tasks run in its jobs, which come and go with them."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_bench import Bench, running
from headrace_up import is_alive
from running_pool import running_pool
from service import running_service
from slurm_cluster import NODES, Slurm, slurm_cluster
from waiting import eventually, eventually_async

from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.engines.build import build
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.settings import engine_settings
from headrace.sdk import Client, Executor, TaskCancelled

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    # Sockets have short names.
    with tempfile.TemporaryDirectory(prefix="slurm-") as directory, slurm_cluster(Path(directory)) as slurm:
        yield slurm


@pytest.fixture
def slurm(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The cluster without jobs, found by everything that this test starts."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    assert cluster.jobs() == {}
    yield cluster
    eventually(lambda: cluster.jobs() == {}, 30, "no job is left behind")


def engine(*, blocks: int = 1, **changes: Any) -> dict[str, Any]:
    """An `engine:` whose jobs take a node each, and are given back after two idle seconds."""
    provider = {
        "type": "SlurmProvider",
        "partition": "compute",
        "init_blocks": 0,
        "max_blocks": blocks,
        "walltime": "00:05:00",
        "worker_init": "export LOADED=a-module",
        **changes.pop("provider", {}),
    }
    return {
        "type": "ParslEngine",
        "address": "127.0.0.1",
        "max_workers_per_node": 1,
        "heartbeat_period": 1,
        "heartbeat_threshold": 4,
        "job_status_kwargs": {"max_idletime": 2, "strategy_period": 0.3, "strategy": "htex_auto_scale"},
        "provider": provider,
        **changes,
    }


def where() -> tuple[int, str, str]:
    """In which job, on which node, and after which `worker_init` this runs."""
    return int(os.environ["SLURM_JOB_ID"]), os.environ["SLURMD_NODENAME"], os.environ["LOADED"]


def hold(folder: str) -> int:
    """Run until `folder/go` exists; the job in which this runs."""
    job = os.environ["SLURM_JOB_ID"]
    print("held in", job)  # noqa: T201 - the case
    (Path(folder) / f"{job}.new").write_text(str(os.getpid()))
    (Path(folder) / f"{job}.new").rename(Path(folder) / job)
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)  # on a node, which has none of the helpers of tests
    return int(job)


def held(folder: Path) -> dict[int, int]:
    """The processes that hold, by the jobs that they are in."""
    return {int(file.name): int(file.read_text()) for file in folder.iterdir() if file.name.isdigit()}


def bench_on(directory: Path, **keys: Any) -> Any:
    means = Means(workers=1, directory=directory)
    return running(
        1, engine_of=lambda source, tell, workers: build(engine_settings(engine(**keys)), source, tell, means)
    )


async def outcome_of(bench: Bench, key: Any) -> Any:
    await bench.outcome(key, within_s=60)
    return await bench.value(key)


def test_an_endpoints_tasks_run_in_jobs_that_go_when_they_are_idle(slurm: Slurm, tmp_path: Path) -> None:
    settings = engine(blocks=2, provider={"launcher": {"type": "SrunLauncher"}})
    with (
        running_service(tmp_path / "service") as service,
        Client(service.url, service.token) as client,
        running_pool(service, tmp_path / "pool", engine=settings) as pool,
        Executor(pool.endpoint_id, client) as executor,
    ):
        job, node, loaded = executor.submit(where).result(90)
        assert slurm.jobs() == {job: "RUNNING"}
        assert (node in NODES, loaded) == (True, "a-module")

        # Two that hold need both nodes.
        (tmp_path / "both").mkdir()
        both = [executor.submit(hold, str(tmp_path / "both")) for _ in range(2)]
        eventually(lambda: len(held(tmp_path / "both")) == 2, 60, "they run in two jobs")
        assert sorted(slurm.jobs().values()) == ["RUNNING", "RUNNING"]
        (tmp_path / "both" / "go").touch()
        assert sorted(future.result(30) for future in both) == sorted(held(tmp_path / "both"))

        eventually(lambda: slurm.jobs() == {}, 60, "idle jobs are given back")

        # The next task has a new one.
        assert executor.submit(where).result(90)[0] not in held(tmp_path / "both")


def test_a_task_that_is_cancelled_with_force_ends_in_its_job(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    with (
        running_service(tmp_path / "service") as service,
        Client(service.url, service.token) as client,
        running_pool(service, tmp_path / "pool", engine=engine()) as pool,
        Executor(pool.endpoint_id, client) as executor,
    ):
        future = executor.submit(hold, str(tmp_path / "held"))
        ((job, pid),) = eventually(lambda: held(tmp_path / "held"), 90, "it runs").items()
        eventually(lambda: future.logs() == f"held in {job}\n", 30, "what it prints is seen while it runs")

        future.cancel(force=True)

        with pytest.raises(TaskCancelled):
            future.result(30)
        eventually(lambda: not is_alive(pid), 10, "its process has ended")
        assert executor.submit(where).result(60)[0] == job, "the job goes on"


async def test_tasks_of_a_job_that_is_cancelled_run_again_in_another_one(slurm: Slurm, tmp_path: Path) -> None:
    folders = [tmp_path / "again", tmp_path / "once"]
    for folder in folders:
        folder.mkdir()
    async with bench_on(tmp_path / "engine", max_workers_per_node=2) as bench:
        again = bench.submit(hold, str(folders[0]))
        once = bench.submit(hold, str(folders[1]), options=TaskOptions(rerun_on_loss=False))
        for folder in folders:
            await eventually_async(lambda folder=folder: held(folder), 60, "they run")  # type: ignore[misc]  # mypy cannot infer a lambda's default
        (first,) = held(folders[0])

        await asyncio.to_thread(slurm.run, "scancel", str(first))

        await eventually_async(lambda: len(held(folders[0])) == 2, 90, "it runs again")
        (folders[0] / "go").touch()
        assert await outcome_of(bench, again) != first
        assert bench.outcomes[again].attempts == 2
        assert (await bench.failure(once)).code == "TaskLost"
        assert len(held(folders[1])) == 1


async def test_what_slurm_says_of_a_job_that_it_refuses_is_told(slurm: Slurm, tmp_path: Path) -> None:
    async with bench_on(tmp_path / "engine", provider={"partition": "nobodys"}) as bench:
        key = bench.submit(where)
        await bench.outcome(key, within_s=60)

        failure = await bench.failure(key)

    assert failure.code == "TaskLost"
    assert "invalid partition specified: nobodys" in failure.message


async def test_a_job_that_waits_for_a_node_is_cancelled_when_the_engine_stops(slurm: Slurm, tmp_path: Path) -> None:
    everything = ["sbatch", "--parsable", "--nodes=2", "--output=/dev/null", "--wrap=sleep 600"]
    taken = int((await asyncio.to_thread(slurm.run, *everything)).strip())
    try:
        async with bench_on(tmp_path / "engine") as bench:
            key = bench.submit(where)
            await eventually_async(lambda: "PENDING" in slurm.jobs().values(), 30, "its job waits")
            assert bench.engine.running() == []
            assert await bench.engine.stop(grace_s=0) == [key]
        await eventually_async(lambda: list(slurm.jobs()) == [taken], 10, "the job is given back")
    finally:
        slurm.run("scancel", str(taken))
