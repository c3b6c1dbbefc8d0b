"""Commands that an MPI launcher starts: `MPIFunction`, and what a `resource_specification` becomes on one machine.

The launcher's command stands in `$PARSL_MPI_PREFIX`, as in Globus Compute. A distributed engine sets it for the nodes
that it has reserved; on workers of a machine of its own Headrace sets it for this machine.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.errors import MpiUnusable
from headrace.bus.shell import ShellFunction

PREFIX: Final = "PARSL_MPI_PREFIX"
SPECIFICATION: Final = "HEADRACE_RESOURCE_SPECIFICATION"

KEYS: Final = ("num_nodes", "ranks_per_node", "num_ranks", "launcher_options")
LAUNCHERS: Final = ("mpiexec", "mpirun")


@dataclass(frozen=True)
class MPIFunction(ShellFunction):
    """A `ShellFunction` whose command is started by an MPI launcher, on the ranks of `resource_specification`:

    executor.resource_specification = {"num_nodes": 1, "ranks_per_node": 4}
    executor.submit(MPIFunction("./solve {case}"), case="wing").result()
    """

    def _prefix(self) -> str:
        if not os.environ.get(PREFIX):
            if os.environ.get(SPECIFICATION):
                return variables(os.environ[SPECIFICATION])[PREFIX] + " "
            raise MpiUnusable(
                "an MPIFunction needs a resource_specification, such as executor.resource_specification = "
                '{"num_nodes": 1, "ranks_per_node": 4}'
            )
        return f"${PREFIX} "


@dataclass(frozen=True, slots=True)
class Ranks:
    """How many processes are asked for."""

    num_nodes: int
    ranks_per_node: int
    num_ranks: int
    launcher_options: str = ""


def ranks(specification: Mapping[str, Any]) -> Ranks:
    """The ranks of a resource specification; what follows from the rest need not be there.

    Raises `ValueError`, which names the key, for keys that are unknown, wrong, missing, or contradict each other.
    """
    unknown = sorted(specification.keys() - set(KEYS))
    if unknown:
        raise ValueError(f"resource_specification has the unknown key {unknown[0]!r}; there are {', '.join(KEYS)}")
    for key in KEYS[:3]:
        value = specification.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{key} of resource_specification must be a whole number from 1 on, not {value!r}")
    options = specification.get("launcher_options") or ""
    if not isinstance(options, str):
        raise ValueError(f"launcher_options of resource_specification must be a text, not {options!r}")
    asked, per_node, total = (specification.get(key) for key in KEYS[:3])
    if per_node is None and total is None:
        raise ValueError("resource_specification needs ranks_per_node or num_ranks")
    nodes = asked or (math.ceil(total / per_node) if total and per_node else 1)
    per_node = per_node or math.ceil((total or 1) / nodes)
    total = total or nodes * per_node
    if not (nodes - 1) * per_node < total <= nodes * per_node:
        raise ValueError(
            f"resource_specification contradicts itself: {nodes} nodes with {per_node} ranks each are not {total} ranks"
        )
    return Ranks(nodes, per_node, total, options)


def is_mpi(specification: Mapping[str, Any]) -> bool:
    """Whether a resource specification asks for ranks; others ask for something else."""
    return not specification.keys().isdisjoint(KEYS)


def variables(text: str) -> dict[str, str]:
    """The variables of a call on this machine with this resource specification (JSON).

    Raises `MpiUnusable` when this machine cannot give what is asked for.
    """
    try:
        asked = ranks(json.loads(text))
    except ValueError as error:
        raise MpiUnusable(str(error)) from error
    if asked.num_nodes > 1:
        raise MpiUnusable(
            f"{asked.num_nodes} nodes are asked for, and the workers of this endpoint have one: set num_nodes to 1, or "
            "use an endpoint whose engine has several (GlobusMPIEngine)"
        )
    launcher = next(filter(shutil.which, LAUNCHERS), None)
    if launcher is None:
        raise MpiUnusable(
            f"no MPI launcher is on the PATH of this endpoint's workers ({' or '.join(LAUNCHERS)}): its administrator "
            "installs one (Debian: openmpi-bin or mpich), or adds its directory to PATH in `environment`"
        )
    return {
        PREFIX: f"{launcher} -n {asked.num_ranks} {asked.launcher_options}".rstrip(),
        "PARSL_NUM_NODES": str(asked.num_nodes),
        "PARSL_NUM_RANKS": str(asked.num_ranks),
        "PARSL_RANKS_PER_NODE": str(asked.ranks_per_node),
    }


@contextlib.contextmanager
def applied(specification: bytes) -> Iterator[None]:
    """Let a call find its resource specification in its environment, and the launcher's command if there is one."""
    text = specification.decode()
    added = {SPECIFICATION: text}
    with contextlib.suppress(MpiUnusable, ValueError):  # whoever needs a launcher asks again, and is told
        if is_mpi(json.loads(text)):
            added |= variables(text)
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
