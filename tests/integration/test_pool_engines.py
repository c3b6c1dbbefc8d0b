"""Pools on other engines than processes, from an Executor to the engine and back."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from headrace_up import is_alive
from running_pool import running_pool
from service import RunningService
from waiting import eventually

from headrace.sdk import Client, Executor, TaskLost

pytestmark = pytest.mark.timeout(180)

PARSL = {
    "type": "ParslEngine",
    "max_workers_per_node": 1,
    "heartbeat_period": 1,
    "heartbeat_threshold": 3,
    "provider": {"type": "LocalProvider"},
}


def ancestors() -> list[int]:
    """This process, and those above it."""
    found = [os.getpid()]
    while found[-1] > 1:
        found.append(int(Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return found


def test_tasks_run_in_threads_of_the_pool(service: RunningService, client: Client, tmp_path: Path) -> None:
    def where() -> tuple[list[str], bool]:
        command = Path("/proc/self/cmdline").read_text().split("\0")
        return command, threading.current_thread() is threading.main_thread()

    with (
        running_pool(service, tmp_path / "pool", name="threads", engine={"type": "ThreadEngine"}) as pool,
        Executor(pool.endpoint_id, client) as executor,
    ):
        command, is_main = executor.submit(where).result(30)
        assert "headrace.endpoint.pool" in " ".join(command)
        assert not is_main
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result(30)


def test_tasks_do_not_run_outside_of_the_container_that_was_asked_for(
    service: RunningService, client: Client, tmp_path: Path
) -> None:
    engine = {"type": "GlobusMPIEngine", "container_type": "docker", "container_uri": "python:3.12"}
    with (
        running_pool(service, tmp_path / "pool", name="containers", engine=engine) as pool,
        Executor(pool.endpoint_id, client) as executor,
        pytest.raises(TaskLost, match="container_type is docker, and a GlobusMPIEngine of this release cannot"),
    ):
        executor.submit(os.getpid).result(30)


def test_tasks_run_where_the_engine_says_and_have_their_sandboxes_there(
    service: RunningService, client: Client, tmp_path: Path
) -> None:
    for name, engine in {"plain": {}, "boxed": {"run_in_sandbox": True}}.items():
        directory = tmp_path / name
        with (
            running_pool(service, directory, name=name, workers=1, engine={"working_dir": "work", **engine}) as pool,
            Executor(pool.endpoint_id, client) as executor,
        ):
            here = Path(executor.submit(os.getcwd).result(30))
            assert here == directory / "work" if name == "plain" else (directory / "work") in here.parents


def test_blocks_end_with_their_pool_however_that_ends(service: RunningService, client: Client, tmp_path: Path) -> None:
    pytest.importorskip("parsl", reason="this environment is older than the extra `parsl`, which `dev` has")
    with running_pool(service, tmp_path / "pool", name="parsl", engine=PARSL) as pool:
        with Executor(pool.endpoint_id, client) as executor:
            line = executor.submit(ancestors).result(60)
            with pytest.raises(ZeroDivisionError):
                executor.submit(divmod, 1, 0).result(30)
        call, runner = line[:2]
        assert is_alive(call)

        pool.kill()

        eventually(lambda: not is_alive(call) and not is_alive(runner), 30, "the block has given itself up")
