"""A real Slurm for tests, with two nodes on this machine: `slurmctld`, two `slurmd` and `munged` on free ports.

with slurm_cluster(directory) as slurm:
    subprocess.run(["sinfo"], env=slurm.environment)

All that it writes lies in the directory; the machine's own Slurm, if there is one, is not touched. Needs root: jobs run
as who submits them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from waiting import eventually

NODES = ("node1", "node2")

# No accounting, no cgroups, no plug-ins that a test machine may not let it use. A node is one job's at a time.
_CONFIGURATION = """\
ClusterName=headrace
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.sock
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=1
PartitionName=compute Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_NODE = "NodeName={0} NodeHostname={1} NodeAddr=127.0.0.1 Port={2} CPUs=2 RealMemory=100 State=UNKNOWN\n"


@dataclass
class Slurm:
    """A cluster that takes jobs."""

    directory: Path
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands find it by."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    def run(self, *command: str) -> str:
        """What a command of Slurm's prints. Raises `CalledProcessError`."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def jobs(self) -> dict[int, str]:
        """The states (`PENDING`, `RUNNING`) of the jobs that are there, the oldest first."""
        lines = self.run("squeue", "--noheader", "--sort=i", "--format=%i %T").splitlines()
        return {int(job): state for job, state in map(str.split, lines)}

    def start(self) -> None:
        """Start everything, and wait until the nodes are there. Raises `AssertionError` with the logs."""
        self._configure()
        self._start("munged", "--foreground", "--force", *_munge_options(self.directory))
        eventually((self.directory / "munge.sock").exists, 10, "munged answers")
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        eventually(self._is_up, 30, f"the nodes are up; see {self.directory}")

    def stop(self) -> None:
        """Cancel all jobs, and end the cluster once they are gone."""
        with contextlib.suppress(subprocess.CalledProcessError, AssertionError):
            for job in self.jobs():
                self.run("scancel", "--signal=KILL", "--full", str(job))
                self.run("scancel", str(job))
            eventually(lambda: not self.jobs(), 20, "all jobs have ended")
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # A job that was cancelled while it was launched is one that Slurm finds, and ends, only later.
        for pid in _started_by(self.directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _is_up(self) -> bool:
        return self.run("sinfo", "--noheader", "--format=%T").split() == ["idle"]

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(1 + len(NODES))
        text = _CONFIGURATION.format(host=host, directory=self.directory, port=ports[0])
        for node, port in zip(NODES, ports[1:], strict=True):
            text += _NODE.format(node, host, port)
            (self.directory / f"spool-{node}").mkdir()
        (self.directory / "state").mkdir()
        (self.directory / "slurm.conf").write_text(text)
        (self.directory / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.directory / "munge.key").chmod(0o600)

    def _start(self, program: str, *arguments: str) -> None:
        # Debian has them where only root's PATH leads.
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert path is not None, f"{program} is not there: run `make test-system`"
        with (self.directory / f"{program}{len(self._processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        self._processes.append(process)


@contextlib.contextmanager
def slurm_cluster(directory: Path) -> Iterator[Slurm]:
    """A cluster in an empty directory, as long as this is open."""
    slurm = Slurm(directory)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def _started_by(directory: Path) -> list[int]:
    """The processes that are in a job of the cluster in this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            variables = path.read_bytes().split(b"\0")
            if f"SLURM_CONF={directory}/slurm.conf".encode() in variables and any(
                each.startswith(b"SLURM_JOB_ID=") for each in variables
            ):
                found.append(int(path.parent.name))
    return found


def _munge_options(directory: Path) -> list[str]:
    names = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    return [f"--{option}={directory / name}" for option, name in names.items()]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
