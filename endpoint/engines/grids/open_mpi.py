"""Open MPI's launcher on the nodes that Parsl set aside for a call.

Parsl writes the command lines of srun, aprun and Hydra (MPICH, Intel MPI). Open MPI's `mpiexec` knows neither `-ppn`
nor `-hosts`, and under Slurm it takes the number of tasks that the job was submitted with, one for each node, for all
the processes that may run there.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from headrace.bus.mpi import PREFIX

_LAUNCHER: Final = "mpiexec"
_NAMES: Final = ("Open MPI", "OpenRTE", "Open Run-Time", "PRRTE")
_ANSWER_S: Final = 20.0
_NODES, _RANKS, _PER_NODE = "PARSL_MPI_NODELIST", "PARSL_NUM_RANKS", "PARSL_RANKS_PER_NODE"
_OPTIONS: Final = "PARSL_LAUNCHER_OPTIONS"


def adapted(environment: Mapping[str, str]) -> dict[str, str]:
    """What changes in the environment of a call whose launcher is Open MPI's; nothing with another one."""
    command, nodes = environment.get(PREFIX, ""), environment.get(_NODES, "")
    if command.split(" ", 1)[0] != _LAUNCHER or not nodes:
        return {}
    launcher = shutil.which(_LAUNCHER, path=environment.get("PATH"))
    if launcher is None or not _is_open_mpi(launcher):
        return {}
    ranks, per_node = environment[_RANKS], environment[_PER_NODE]
    hosts = ",".join(f"{node}:{per_node}" for node in nodes.split(","))
    words = [_LAUNCHER, "-n", ranks, "--host", hosts, "--map-by", f"ppr:{per_node}:node"]
    changes = {}
    if job_nodes := environment.get("SLURM_JOB_NUM_NODES"):
        changes["SLURM_TASKS_PER_NODE"] = f"{per_node}(x{job_nodes})"
    else:
        # What other systems let a node have may be the one process that Parsl asked for.
        words.append("--oversubscribe")
    changes[PREFIX] = " ".join([*words, environment.get(_OPTIONS, "")]).rstrip()
    return changes


@functools.cache
def _is_open_mpi(launcher: str) -> bool:
    try:
        said = subprocess.run([launcher, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(name in said.stdout + said.stderr for name in _NAMES)
