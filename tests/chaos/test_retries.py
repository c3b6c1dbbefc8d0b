"""Retries and losses are counted apart: by the pool that has the task."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_pool import running_pool
from service import running_service
from waiting import eventually

from headrace.sdk import Client, Executor, TaskLost


def fail_but_hang_in_the_second_run(path: str) -> None:
    import time
    from pathlib import Path

    with Path(path).open("a") as file:
        file.write("run\n")
    if len(Path(path).read_text().splitlines()) == 2:
        time.sleep(60)  # until its pool is killed
    raise ValueError("as ever")


def runs(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_retries_count_anew_in_the_pool_that_takes_over_and_what_must_not_run_twice_is_lost(tmp_path: Path) -> None:
    again, once = tmp_path / "again", tmp_path / "once"
    with (
        running_service(tmp_path) as service,
        running_pool(service, tmp_path / "pool") as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        retrying = executor.with_options(max_retries=2, retry_delay_s=0.01)
        repeated = retrying.submit(fail_but_hang_in_the_second_run, str(again))
        lost = retrying.with_options(rerun_on_loss=False).submit(fail_but_hang_in_the_second_run, str(once))
        eventually(lambda: (runs(again), runs(once)) == (2, 2), 20, "both hang in their first retry")

        pool.kill()
        pool.start()

        with pytest.raises(ValueError, match="as ever"):
            repeated.result(20)
        assert runs(again) == 2 + 3
        assert repeated.attempts == 3
        with pytest.raises(TaskLost):
            lost.result(20)
        assert runs(once) == 2
