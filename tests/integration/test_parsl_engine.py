"""The Parsl engine with Parsl's Slurm provider; `sbatch`, `squeue` and `scancel` are scripts that really run jobs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from engine_bench import running
from headrace_up import is_alive
from waiting import eventually_async

from headrace.bus.data.values import decode
from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.engines.build import build
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.settings import engine_settings

# Looked for, not loaded: each of the processes that tests run in would do that.
_OLDER = pytest.mark.skipif(
    not find_spec("parsl"), reason="this environment is older than the extra `parsl`, which `dev` has"
)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240), _OLDER]

SBATCH = """#!/bin/bash
# A job is a process group; its number is that of its leader.
if [ -e "$SLURM_FOLDER/refuse" ]; then echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1; fi
out=$(sed -n 's/^#SBATCH --output=//p' "$1"); err=$(sed -n 's/^#SBATCH --error=//p' "$1")
cp "$1" "$SLURM_FOLDER/last.sh"
export SLURM_NODELIST=node[1-2]
setsid bash -c 'while [ -e "$SLURM_FOLDER/full" ]; do sleep 0.05; done; export SLURM_JOB_ID=$$; exec bash "$0"' "$1" \\
    >"$out" 2>"$err" </dev/null &
echo "$!" >>"$SLURM_FOLDER/jobs"
echo "Submitted batch job $!"
"""

SQUEUE = """#!/bin/bash
while [ "$1" != --job ]; do shift; done
for job in ${2//,/ }; do
    if kill -0 "$job" 2>/dev/null; then [ -e "$SLURM_FOLDER/full" ] && echo "$job PD" || echo "$job R"; fi
done
"""

SCONTROL = """#!/bin/bash
printf 'node1\\nnode2\\n'
"""

MPIEXEC = """#!/bin/bash
echo "HYDRA build details:"
"""

SCANCEL = """#!/bin/bash
for job in "$@"; do echo "$job" >>"$SLURM_FOLDER/cancelled"; kill -KILL -- "-$job" 2>/dev/null; done
exit 0
"""


class Slurm:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        commands = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "scontrol": SCONTROL, "mpiexec": MPIEXEC}
        for name, text in commands.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o700)

    def jobs(self) -> list[int]:
        """The jobs that are there, the first one first."""
        path = self.folder / "jobs"
        return [job for job in map(int, path.read_text().split()) if is_alive(job)] if path.exists() else []

    def end(self) -> None:
        for job in self.jobs():
            os.killpg(job, signal.SIGKILL)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_FOLDER", str(folder))
    slurm = Slurm(folder)
    try:
        yield slurm
    finally:
        slurm.end()


def slurm_engine(directory: Path, **changes: Any) -> Any:
    settings = engine_settings(
        {
            "type": "GlobusComputeEngine",
            "address": "127.0.0.1",
            "max_workers_per_node": 1,
            **changes,
            "heartbeat_period": 1,
            "heartbeat_threshold": 3,
            "job_status_kwargs": {"max_idletime": 1, "strategy_period": 0.2},
            "provider": {
                "type": "SlurmProvider",
                "partition": "gpu",
                "init_blocks": 0,
                "max_blocks": 1,
                "walltime": "00:05:00",
                "worker_init": "export LOADED=a-module",
            },
        }
    )
    means = Means(workers=1, directory=directory)
    return lambda source, tell, workers: build(settings, source, tell, means)


def hold(folder: str) -> str:
    with (Path(folder) / "starts").open("a") as file:
        file.write("x")
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)  # in a worker: until the test lets it end
    return os.environ["LOADED"] + os.environ["SLURM_JOB_ID"]


async def test_tasks_run_in_jobs_that_come_when_they_are_needed_and_go_when_they_are_not(
    slurm: Slurm, tmp_path: Path
) -> None:
    async with running(1, engine_of=slurm_engine(tmp_path / "engine")) as bench:
        # A task that waits for a job is cancelled without having run.
        (slurm.folder / "full").touch()
        cancelled = bench.submit(hold, str(tmp_path))
        await eventually_async(slurm.jobs, 30, "a job is asked for")
        assert bench.engine.running() == []
        bench.engine.cancel([cancelled])
        assert (await bench.failure(cancelled, "cancelled")).code == "TaskCancelled"

        # The next one runs in that job; the job is lost, and the task runs again in another one.
        key = bench.submit(hold, str(tmp_path))
        (slurm.folder / "full").unlink()
        await eventually_async((tmp_path / "starts").exists, 60, "it runs")
        assert "#SBATCH --partition=gpu" in (slurm.folder / "last.sh").read_text()
        first = slurm.jobs()
        os.killpg(first[0], signal.SIGKILL)
        await eventually_async(lambda: (tmp_path / "starts").read_text() == "xx", 60, "it runs again")
        second = slurm.jobs()
        (tmp_path / "go").touch()

        outcome = await bench.outcome(key)
        assert outcome.attempts == 2
        assert second != first
        assert await bench.value(key) == f"a-module{second[0]}"

        # The idle job is given back, and the next task has a new one.
        await eventually_async(lambda: not slurm.jobs(), 30, "the idle job is given back")
        assert str(second[0]) in (slurm.folder / "cancelled").read_text()
        await eventually_async(lambda: bench.engine.load().workers == 0, 30)
        (tmp_path / "go").unlink()
        left = bench.submit(hold, str(tmp_path))
        await eventually_async(lambda: (tmp_path / "starts").read_text() == "xxx", 60, "it runs in a third job")

        # An engine that stops gives the job back with what runs there.
        stopping = asyncio.create_task(bench.engine.stop(grace_s=3600))
        assert await bench.engine.stop(grace_s=0) == await stopping == [left]
        await eventually_async(lambda: not slurm.jobs(), 10, "the job is given back")


async def test_a_job_that_is_refused_is_told_with_the_tasks_that_wait_for_it(slurm: Slurm, tmp_path: Path) -> None:
    (slurm.folder / "refuse").touch()
    async with running(1, engine_of=slurm_engine(tmp_path / "engine")) as bench:
        outcome = await bench.outcome(bench.submit(hold, str(tmp_path), options=TaskOptions()), within_s=60)

        failure = await bench.failure(outcome.key)
        assert failure.code == "TaskLost"
        assert "invalid partition specified: gpu" in failure.message

        # What comes later has a job asked for again.
        (slurm.folder / "refuse").unlink()

        def asked_again() -> list[int]:
            if not bench.engine.load().queued:
                bench.submit(hold, str(tmp_path))
            return slurm.jobs()

        await eventually_async(asked_again, 60, "a job is asked for")


async def test_an_mpi_function_has_nodes_of_the_block_to_itself(slurm: Slurm, tmp_path: Path) -> None:
    def prefix() -> str:
        return os.environ["PARSL_MPI_PREFIX"]

    engine = slurm_engine(tmp_path / "engine", type="GlobusMPIEngine", mpi_launcher="mpiexec", max_workers_per_block=2)
    asked = [{"num_nodes": 1, "ranks_per_node": 3}, {"num_nodes": 2, "num_ranks": 4}]
    async with running(1, engine_of=engine) as bench:
        keys = [
            bench.submit(prefix, options=TaskOptions(resource_specification=json.dumps(each).encode()))
            for each in [*asked, {"num_nodes": 0}]
        ]

        first, second, refused = [await bench.outcome(key, within_s=100) for key in keys]

        assert re.search(r"mpiexec -n 3 .*node[12]", decode(first.encoding, first.value))
        assert re.search(
            r"mpiexec -n 4 .*node1,node2|mpiexec -n 4 .*node2,node1", decode(second.encoding, second.value)
        )
        assert (await bench.failure(refused.key)).code == "MpiUnusable"
