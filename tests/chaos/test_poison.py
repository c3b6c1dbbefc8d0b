"""A function that kills its whole pool, each time that it runs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from chaos.accounts import read_runs
from chaos.load_client import leave_a_trace
from running_pool import RunningPool, running_pool
from service import running_service
from waiting import eventually

from headrace.sdk import Client, Executor, TaskLost


def kill_the_pool(path: str) -> None:
    import os
    import signal
    from pathlib import Path

    with Path(path).open("a") as file:
        file.write("killed\n")
    os.kill(os.getppid(), signal.SIGKILL)


def started_again(pool: RunningPool) -> None:
    """As its manager would, whenever it has died."""
    if pool.is_running:
        return
    pool.stop()
    # It may die before it says that it serves.
    with contextlib.suppress(RuntimeError):
        pool.start()


def test_it_ends_as_lost_and_what_runs_beside_it_does_not(tmp_path: Path) -> None:
    kills, effects = tmp_path / "kills", tmp_path / "effects"
    with (
        running_service(tmp_path) as service,
        running_pool(service, tmp_path / "pool") as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        # The long ones never come to their end before the next kill, unless they are let to.
        long = [executor.submit(leave_a_trace, str(effects), number, 1.5) for number in range(2)]
        poison = executor.submit(kill_the_pool, str(kills))
        short = [executor.submit(leave_a_trace, str(effects), number, 0.0) for number in range(2, 12)]

        def all_ended() -> bool:
            started_again(pool)
            return all(future.done() for future in (poison, *long, *short))

        eventually(all_ended, 60, "all tasks have ended")

        with pytest.raises(TaskLost, match="it may be what kills the pool"):
            poison.result()
        assert len(kills.read_text().splitlines()) == 6
        assert [future.result()[0] for future in (*long, *short)] == list(range(12))
        assert set(read_runs(effects)) == set(range(12))
