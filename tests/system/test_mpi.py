"""MPI functions with Debian's Open MPI: on the endpoint's machine, and on the nodes of a real Slurm."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_pool import running_pool
from service import RunningService, running_service
from slurm_cluster import NODES, Slurm, slurm_cluster
from waiting import eventually

from headrace.sdk import Client, Executor, MPIFunction

pytestmark = pytest.mark.timeout(300)

# As root, with more processes than cores, and on two nodes that are one machine, so not by way of its memory.
ROOT = "--allow-run-as-root --oversubscribe --mca btl self,tcp"
PROGRAM = """\
import os
from mpi4py import MPI
world = MPI.COMM_WORLD
node, total = os.environ.get("SLURMD_NODENAME", "here"), world.allreduce(world.rank + 1)
print(" ".join(map(str, (world.rank, world.size, total, node))) + "\\n", end="", flush=True)
"""


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    """A program that adds up its ranks; where every process can read it."""
    with tempfile.TemporaryDirectory(prefix="mpi-") as directory:
        path = Path(directory) / "ranks.py"
        path.write_text(PROGRAM)
        yield str(path)


# Debian's Python, which has Debian's mpi4py.
RANKS = MPIFunction("/usr/bin/python3 {program}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[Client]:
    with Client(service.url, service.token) as client:
        yield client


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as directory, slurm_cluster(Path(directory)) as slurm:
        yield slurm


def boxes(directory: Path) -> dict[str, str]:
    """Limits with which commands write their files into directories of their own."""
    return {"sandboxes": str(directory / "boxes")}


def ranks(executor: Executor, program: str, **specification: int | str) -> list[tuple[int, int, int, str]]:
    """What the processes of a call said: rank, size, sum of all ranks, node."""
    asked = {"launcher_options": ROOT, **specification}
    result = executor.with_options(resource_specification=asked).submit(RANKS, program=program).result(120)
    assert result.returncode == 0, result.stderr
    lines = sorted(line.split() for line in result.stdout.splitlines())
    return [(int(rank), int(size), int(total), node) for rank, size, total, node in lines]


def test_ranks_of_a_process_engine_run_on_the_endpoints_machine(
    service: RunningService, client: Client, program: str, tmp_path: Path
) -> None:
    assert shutil.which("mpiexec"), "run `make test-system`"
    with (
        running_pool(service, tmp_path / "pool", name="one-machine", limits=boxes(tmp_path)) as pool,
        Executor(pool.endpoint_id, client) as executor,
    ):
        assert ranks(executor, program, ranks_per_node=3) == [(rank, 3, 6, "here") for rank in range(3)]
        assert ranks(executor, program, num_ranks=2) == [(rank, 2, 3, "here") for rank in range(2)]
        failed = executor.with_options(resource_specification={"num_ranks": 2, "launcher_options": ROOT}).submit(
            MPIFunction("sh -c {script}"), script="exit 3"
        )
        assert failed.result(60).returncode == 3


@pytest.mark.parametrize("launcher", ["mpiexec", "srun"])
def test_ranks_of_an_mpi_engine_run_on_the_nodes_that_are_set_aside_for_them(
    launcher: str,
    service: RunningService,
    client: Client,
    slurm: Slurm,
    program: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    engine = {
        "type": "GlobusMPIEngine",
        "address": "127.0.0.1",
        "mpi_launcher": launcher,
        "max_workers_per_block": 2,
        "job_status_kwargs": {"max_idletime": 2, "strategy_period": 0.3},
        "provider": {"type": "SlurmProvider", "nodes_per_block": 2, "init_blocks": 0, "walltime": "00:05:00"},
    }
    with (
        running_pool(
            service, tmp_path / "pool", name=f"cluster-{launcher}", engine=engine, limits=boxes(tmp_path)
        ) as pool,
        Executor(pool.endpoint_id, client) as executor,
    ):
        if launcher == "mpiexec":
            both = ranks(executor, program, num_nodes=2, ranks_per_node=2)
            assert [each[:3] for each in both] == [(rank, 4, 10) for rank in range(4)]
            assert sorted(each[3] for each in both) == sorted(2 * NODES)
            # Three ranks: two on one node, one on the other; then one node alone.
            uneven = ranks(executor, program, num_nodes=2, num_ranks=3)
            assert [each[:3] for each in uneven] == [(rank, 3, 6) for rank in range(3)]
            assert {each[3] for each in uneven} == set(NODES)
            assert len({each[3] for each in ranks(executor, program, num_nodes=1, ranks_per_node=3)}) == 1
        else:
            # Debian's Slurm cannot start ranks of Open MPI itself: processes that do not speak to each other.
            said = MPIFunction("sh -c {script}")
            asked = {"num_nodes": 2, "ranks_per_node": 2, "launcher_options": "--label"}
            future = executor.with_options(resource_specification=asked).submit(said, script="echo $SLURMD_NODENAME")
            lines = sorted(future.result(120).stdout.splitlines())
            assert [line.split(":")[0] for line in lines] == ["0", "1", "2", "3"]
            assert sorted(line.split()[1] for line in lines) == sorted(2 * NODES)
    eventually(lambda: slurm.jobs() == {}, 30, "its job is given back")
