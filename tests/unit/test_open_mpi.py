"""The command line of Open MPI's launcher, in place of the one that Parsl has written."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.bus.mpi import PREFIX
from headrace.endpoint.engines.grids.open_mpi import adapted

OPEN_MPI, HYDRA = "mpiexec (OpenRTE) 4.1.4", "HYDRA build details:"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What Parsl gives a call with three ranks on two nodes."""
    return {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        PREFIX: "mpiexec -n 3 -ppn 2 -hosts n1,n2 --bind-to core",
        "PARSL_MPI_NODELIST": "n1,n2",
        "PARSL_NUM_RANKS": "3",
        "PARSL_RANKS_PER_NODE": "2",
        "PARSL_LAUNCHER_OPTIONS": "--bind-to core",
    }


def install(folder: Path, said: str) -> None:
    (folder / "mpiexec").write_text(f"#!/bin/sh\necho '{said}'\n")
    (folder / "mpiexec").chmod(0o755)


def test_open_mpi_is_told_its_nodes_in_its_own_words(environment: dict[str, str], tmp_path: Path) -> None:
    install(tmp_path, OPEN_MPI)

    changes = adapted(environment)

    line = "mpiexec -n 3 --host n1:2,n2:2 --map-by ppr:2:node --oversubscribe --bind-to core"
    assert changes == {PREFIX: line}


def test_in_a_job_of_slurm_it_may_start_as_many_ranks_as_were_asked_for(
    environment: dict[str, str], tmp_path: Path
) -> None:
    install(tmp_path, OPEN_MPI)

    changes = adapted({**environment, "SLURM_JOB_NUM_NODES": "4", "SLURM_TASKS_PER_NODE": "1(x4)"})

    assert changes["SLURM_TASKS_PER_NODE"] == "2(x4)"
    assert changes[PREFIX] == "mpiexec -n 3 --host n1:2,n2:2 --map-by ppr:2:node --bind-to core"


def test_other_launchers_keep_the_line_of_parsl(environment: dict[str, str], tmp_path: Path) -> None:
    assert adapted({**environment, "PATH": str(tmp_path)}) == {}, "there is none"
    install(tmp_path, HYDRA)
    assert adapted(environment) == {}
    assert adapted({**environment, PREFIX: "srun --ntasks 3"}) == {}
    assert adapted({}) == {}
