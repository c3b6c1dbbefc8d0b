"""Parsl's part of a ParslEngine: the executor, its provider, and the poller that asks for blocks and gives them back.

directory/parsl/               of this start; `parsl.previous` is the one before
directory/parsl/submit_scripts what was given to the batch system, and what it answered
directory/parsl/<label>        logs of the interchange and of each block's workers
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from headrace.endpoint.engines.providers import Launcher, Provider, is_plain_local, options_of
from headrace.endpoint.engines.settings import Address, OwnProcesses, ParslSettings

LOOPBACK: Final = "127.0.0.1"

_RUNNER = "headrace.endpoint.engines.grids.host.run"
_COMMAND_S = 10.0
_HEARTBEAT_S = 5
_LOST_S = 30
_LEAVE_S = 3.0
_ASK_S = 60.0

# The interchange ends with the pool, however that ends; without it the blocks give themselves up after _LOST_S.
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"

_GIVEN_OTHERWISE = (
    *(field.name for field in dataclasses.fields(OwnProcesses)),
    *("provider", "job_status_kwargs", "address", "mpi_launcher", "max_workers_per_block"),
)


class Blocks:
    """Parsl's executor, started. Everything here may take long, and belongs to one thread; `submit` to any."""

    def __init__(self, settings: ParslSettings, directory: Path) -> None:
        """Raises `ImportError` without Parsl, and whatever Parsl raises when it cannot be set up so."""
        from parsl.jobs.job_status_poller import JobStatusPoller

        if not settings.worker_debug:
            logging.getLogger("parsl").setLevel(logging.WARNING)
        self._settings = settings
        self._there: set[str] = set()
        """The blocks that have workers."""
        self._lost: dict[str, float] = {}
        """Those that had some, with the monotonic second until which the batch system is asked about them often."""
        run = _new_run(directory)
        executor = self._executor = _executor(settings)
        executor.run_dir = str(run)
        executor.run_id = run.parent.name
        if hasattr(executor.provider, "script_dir"):
            executor.provider.script_dir = str(run / "submit_scripts")
            (run / "submit_scripts").mkdir()
        executor.start()
        scaling = settings.job_status_kwargs
        # The pool holds most calls back, so the strategy is told how many there are.
        self.demand = 0
        executor.outstanding = lambda: max(self.demand, len(executor.tasks))
        scale_in = executor.scale_in
        # Asked for none, Parsl gives back every idle block, and one that is still to come counts as idle: with fewer
        # calls than slots, jobs would be cancelled while they wait, and asked for anew.
        executor.scale_in = lambda blocks, max_idletime=None: scale_in(blocks, max_idletime) if blocks > 0 else []
        self._poller = JobStatusPoller(
            strategy=scaling.strategy, max_idletime=scaling.max_idletime, strategy_period=scaling.strategy_period
        )
        self._poller.add_executors([executor])
        # The poller's thread has begun before it knew of us; the next look of its own comes late.
        self._poller.make_callback()

    @property
    def addresses(self) -> list[str]:
        """What nodes may call this machine."""
        return sorted(self._executor.all_addresses)

    @property
    def most_workers(self) -> int:
        """How many there may be, as far as Parsl can tell before they are there."""
        provider = self._executor.provider
        return int(self._executor.workers_per_node * provider.nodes_per_block * self._settings.provider.most_blocks)

    def submit(self, parcel: bytes, specification: dict[str, Any] | None) -> Future[bytes]:
        """Run a parcel. Raises what Parsl raises when the executor is beyond hope."""
        context: dict[str, Any] = {"task_executor": {"f": _RUNNER}}
        if specification:
            self._executor.validate_resource_spec(specification)
            context["resource_spec"] = specification
        future: Future[bytes] = self._executor.submit_payload(context, parcel)
        return future

    def workers(self) -> int:
        """How many workers are up."""
        managers = [m for m in self._executor.command_client.run("MANAGERS", timeout_s=_COMMAND_S) if m["active"]]
        self._ask_about_lost({m["block_id"] for m in managers})
        workers: int = sum(m["worker_count"] for m in managers if not m.get("draining"))
        return workers

    def _ask_about_lost(self, there: set[str]) -> None:
        """Have the batch system asked about blocks whose workers are gone: their jobs may have ended before their time.

        Parsl asks once a minute, and thinks until then that a block is there. One answer may not be enough: Slurm calls
        a job that is ending a running one.
        """
        now, status = time.monotonic(), self._executor._status
        for block in self._there - there:
            self._lost[block] = now + _ASK_S
        self._there = there
        for block, until in list(self._lost.items()):
            if block in there or now > until or block not in status or status[block].terminal:
                del self._lost[block]
        if self._lost:
            self._executor._last_poll_time = 0.0  # it is asked the next time that the strategy looks

    def problem(self) -> str:
        """Why the executor is beyond hope; empty while it is not."""
        executor = self._executor
        if executor.bad_state_is_set:
            return f"{executor.executor_exception}"
        if executor.interchange_proc is not None and executor.interchange_proc.poll() is not None:
            return f"Parsl's interchange has ended; see {executor.logdir}/interchange.log"
        return ""

    def unfinished(self) -> list[Future[bytes]]:
        """What will not end any more when the executor is beyond hope."""
        return [future for future in list(self._executor.tasks.values()) if not future.done()]

    def close(self) -> None:
        """Give the blocks back and end the interchange; whatever takes longer than `_LEAVE_S` ends by itself."""
        closing = threading.Thread(target=self._close, name="close-parsl", daemon=True)
        closing.start()
        closing.join(_LEAVE_S)

    def _close(self) -> None:
        try:
            self._poller.close(timeout=1.0)
        except Exception:
            logging.getLogger(__name__).warning("Not all blocks could be given back.", exc_info=True)
        finally:
            self._executor.shutdown(timeout=1.0)


def _new_run(directory: Path) -> Path:
    run, previous = directory / "parsl", directory / "parsl.previous"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if run.exists():
        shutil.rmtree(previous, ignore_errors=True)
        run.rename(previous)
    run.mkdir(mode=0o700)
    return run


def _executor(settings: ParslSettings) -> Any:
    from parsl.executors import HighThroughputExecutor, MPIExecutor

    options = options_of(settings, *_GIVEN_OTHERWISE)
    options |= {
        "provider": _provider(settings),
        "address": _address(settings),
        "heartbeat_period": settings.heartbeat_period or _HEARTBEAT_S,
        "heartbeat_threshold": settings.heartbeat_threshold or _LOST_S,
    }
    if settings.is_mpi:
        for key in ("max_workers_per_node", "cores_per_worker", "mem_per_worker", "cpu_affinity"):
            options.pop(key, None)
        options["mpi_launcher"] = settings.mpi_launcher or "mpiexec"
        options["max_workers_per_block"] = settings.max_workers_per_block or 1
        executor = MPIExecutor(**options)
    else:
        executor = HighThroughputExecutor(available_accelerators=list(settings.accelerators), **options)
    # Only bytes go there and back; which Python can read a function is looked at there.
    executor._check_python_mismatch = False
    # Not through the constructor: MPIExecutor's takes no list.
    executor.interchange_launch_cmd = _interchange_command()
    return executor


def _provider(settings: ParslSettings) -> Any:
    import parsl.providers

    provider = settings.provider
    options = options_of(provider, "launcher")
    launcher = provider.launcher
    if launcher is None and settings.is_mpi:
        launcher = Launcher(type="SimpleLauncher")
    if launcher is not None:
        options["launcher"] = _launcher(launcher)
    # Where the nodes share this file system, they find what is installed here, after what worker_init chooses.
    path = f'export PATH="$PATH:{Path(sys.executable).parent}"'
    options["worker_init"] = f"{provider.worker_init or ''}\n{path}".lstrip()
    return getattr(parsl.providers, provider.type)(**options)


def _launcher(launcher: Launcher) -> Any:
    import parsl.launchers.launchers

    return getattr(parsl.launchers.launchers, launcher.type)(**options_of(launcher))


def _address(settings: ParslSettings) -> str | None:
    address = settings.address
    if isinstance(address, Address):
        import parsl.addresses

        find: Callable[..., str] = getattr(parsl.addresses, address.type)
        return find(address.ifname) if address.ifname else find()
    return LOOPBACK if address is None and _is_here(settings.provider) else address


def _is_here(provider: Provider) -> bool:
    return is_plain_local(provider)


def _interchange_command() -> list[str]:
    here = Path(sys.executable).parent / "interchange.py"
    program = str(here) if here.exists() else shutil.which("interchange.py")
    if program is None:
        return ["interchange.py"]
    return [sys.executable, "-c", _TIED, sys.executable, program]
