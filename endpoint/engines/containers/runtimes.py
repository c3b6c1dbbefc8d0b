"""The commands of container runtimes: one container for each worker, with one directory of the pool in it.

Engine and worker share nothing but that directory, under the same path inside and outside: docker's daemon passes no
descriptors on, so no runtime is asked to.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LAUNCH_COMMAND: Final = "{EXECUTOR_LAUNCH_CMD}"
RUN_DIRECTORY: Final = "{EXECUTOR_RUNDIR}"
IMAGE: Final = "{CONTAINER_URI}"

_DAEMONS: Final = ("docker", "podman", "podman-hpc")
_PACKAGES: Final[Mapping[str, str]] = {
    "docker": "see https://docs.docker.com/engine/install",
    "podman": "the package podman of Debian, Fedora and others",
    "podman-hpc": "see https://podman-hpc.readthedocs.io",
    "apptainer": "see https://apptainer.org/docs",
    "singularity": "see https://docs.sylabs.io",
    "bwrap": "the package bubblewrap of Debian, Fedora and others",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """How the workers of a pool are put into containers."""

    kind: str
    """`docker`, `podman`, `podman-hpc`, `apptainer`, `singularity` or `custom`."""
    image: str = ""
    options: str = ""
    """Further options of `run`, as in a shell but with nothing expanded; for `custom` the whole command."""
    directory: Path
    """All that engine and workers share, as an absolute path."""
    python: str = "python3"
    """Python inside the image."""
    shared: Path | None = None
    """A further directory for workers, which a command of one's own does not get."""
    variables: tuple[str, ...] = ()
    """The names of environment variables that are the workers'."""

    @property
    def code(self) -> Path:
        """Where Headrace's code lies for the workers."""
        return self.directory / "code"

    @property
    def meetings(self) -> Path:
        """Where each worker has a directory of its own."""
        return self.directory / "workers"

    @property
    def program(self) -> str:
        """The program that must be installed."""
        return self._template()[0] if self.kind == "custom" else self.kind

    @property
    def has_daemon(self) -> bool:
        """Whether the container is no child of the command that started it, but goes by a name."""
        return self.kind in _DAEMONS

    def command(self, arguments: Sequence[str], *, name: str) -> list[str]:
        """The command line of a container with this name, in which a worker's start runs with these arguments."""
        start = str(self.code / "headrace" / "endpoint" / "worker" / "in_container.py")
        launch = [self.python, start, "headrace.endpoint.worker", *arguments]
        if self.kind == "custom":
            return self._custom(launch)
        if self.has_daemon:
            return [self.kind, "run", *self._daemon_options(name), *shlex.split(self.options), self.image, *launch]
        binds = [f"--bind={self.directory}", f"--bind={self.code}:{self.code}:ro"]
        if self.shared is not None:
            binds.append(f"--bind={self.shared}")
        return [self.kind, "run", *binds, *shlex.split(self.options), self.image, *launch]

    def ending(self, name: str) -> list[str] | None:
        """The command that ends the container at once; None where ending its processes does."""
        return [self.kind, "kill", name] if self.has_daemon else None

    def hint(self) -> str:
        """What to do when the program is not there."""
        where = _PACKAGES.get(os.path.basename(self.program))
        install = f"install it ({where})" if where else "install it, or write its whole path in container_cmd_options"
        return f"{install}; where a module or a path brings it, name that in worker_init"

    def _daemon_options(self, name: str) -> list[str]:
        options = ["--rm", f"--name={name}", f"--volume={self.directory}:{self.directory}"]
        options.append(f"--volume={self.code}:{self.code}:ro")
        if self.shared is not None:
            options.append(f"--volume={self.shared}:{self.shared}")
        # SELinux keeps containers from sockets and files that are not labelled as theirs.
        options.append("--security-opt=label=disable")
        # What a task writes is to be ours. docker's daemon is root, while podman's root inside is us outside.
        options += [f"--user={os.getuid()}:{os.getgid()}" if self.kind == "docker" else "--user=0:0"]
        # Without their values, which the runtime takes from its own environment: no process list shows them.
        return options + [f"--env={variable}" for variable in self.variables]

    def _custom(self, launch: Sequence[str]) -> list[str]:
        line: list[str] = []
        for word in self._template():
            if word == LAUNCH_COMMAND:
                line += launch
            else:
                filled = word.replace(LAUNCH_COMMAND, shlex.join(launch)).replace(IMAGE, self.image)
                line.append(filled.replace(RUN_DIRECTORY, str(self.directory)))
        return line

    def _template(self) -> list[str]:
        return shlex.split(self.options)


def template_problem(template: str | None) -> str | None:
    """What is wrong with the command of a custom container, or with the options of another one."""
    if template is None:
        return f"needs container_cmd_options, the command, with {LAUNCH_COMMAND} where the worker's goes"
    problem = options_problem(template)
    if problem is None and LAUNCH_COMMAND not in template:
        problem = f"has no {LAUNCH_COMMAND}: write it where the worker's command goes"
    if problem is None and shlex.split(template)[0].startswith(LAUNCH_COMMAND):
        problem = f"begins with {LAUNCH_COMMAND}: write the program before it that makes the container"
    return problem


def options_problem(options: str) -> str | None:
    """What is wrong with options that are split as a shell splits words."""
    try:
        shlex.split(options)
    except ValueError as error:
        return f"cannot be split into words: {str(error).lower()}"
    return None
