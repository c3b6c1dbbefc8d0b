"""Two pools of one endpoint share its queue, and one of them is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from chaos.accounts import read_runs
from chaos.load_client import leave_a_trace
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.sdk import Client, Executor


@contextlib.contextmanager
def another(pool: RunningPool, directory: Path) -> Iterator[RunningPool]:
    """The same endpoint started once more, as on a second machine."""
    directory.mkdir()
    settings = json.loads(pool.settings_path.read_text())
    status_path, settings_path = directory / "status.json", directory / "pool.json"
    settings |= {"status_path": str(status_path), "pids_path": str(directory / "pids")}
    settings_path.write_text(json.dumps(settings))
    second = dataclasses.replace(
        pool, settings_path=settings_path, log_path=directory / "pool.log", status_path=status_path, _process=None
    )
    second.start()
    try:
        yield second
    finally:
        second.stop()


@contextlib.contextmanager
def two_pools(directory: Path) -> Iterator[tuple[RunningService, RunningPool, RunningPool]]:
    with (
        running_service(directory) as service,
        running_pool(service, directory / "first") as first,
        another(first, directory / "second") as second,
    ):
        yield service, first, second


def test_what_a_killed_pool_held_goes_to_the_other_and_nothing_else_runs_twice(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    with (
        two_pools(tmp_path) as (service, first, second),
        Client(service.url, service.token) as client,
        Executor(first.endpoint_id, client=client) as executor,
    ):
        once = executor.with_options(rerun_on_loss=False)
        executor.submit(leave_a_trace, str(effects), -1, 0.0).result(20)
        futures = {}
        for number in range(240):
            chosen = once if number % 20 == 0 else executor
            futures[number] = chosen.submit(leave_a_trace, str(effects), number, 0.4 if number % 40 < 2 else 0.02)
        eventually(lambda: len(read_runs(effects)) > 20, 10, "they work")
        victim = eventually(
            lambda: next((pool for pool in (first, second) if _bundles(pool)), None), 5, "one holds some"
        )
        assert victim is not None
        process = victim._process
        assert process is not None
        victim.kill()
        assert process.returncode == -9

        ends = {number: future.exception(30) for number, future in futures.items()}
        runs = read_runs(effects)
        # A pool has two workers; what they had run before was stored within an instant.
        repeated = [number for number in runs if len(runs[number]) > 1]
        assert len(repeated) < 120
        for number, future in futures.items():
            if ends[number] is None:
                assert future.result()[0] == number
                assert future.result()[1] in {run.run for run in runs[number]}
            else:
                assert number % 20 == 0
                assert type(ends[number]).__name__ == "TaskLost"
            if number % 20 == 0:
                assert len(runs.get(number, ())) <= 1
        print(f"{len(repeated)} of 240 ran twice")  # noqa: T201 - shown in a long run, and when it fails


def test_what_both_pools_hold_runs_once_when_the_bus_is_killed(tmp_path: Path) -> None:
    """Its consumers are gone with it, and give all that is in TASKS again: to whoever asks first."""
    effects = tmp_path / "effects"
    with (
        two_pools(tmp_path) as (service, first, _),
        Client(service.url, service.token) as client,
        Executor(first.endpoint_id, client=client, batch_size=1) as executor,
    ):
        once = executor.with_options(rerun_on_loss=False)
        gate = tmp_path / "gate"
        # More than one pool takes before it knows how long they are, so that each holds some.
        futures = [
            (once if number % 2 else executor).submit(trace_behind_a_gate, str(effects), number, str(gate), 0.3)
            for number in range(36)
        ]
        eventually(lambda: len(read_runs(effects)) == 4, 20, "all workers of both pools have one")

        service.nats.kill()
        service.loop.run(service.nats.start())
        gate.touch()

        assert [future.result(30) for future in futures] == list(range(36))
        assert {number: len(runs) for number, runs in read_runs(effects).items()} == dict.fromkeys(range(36), 1)


def test_what_a_pool_held_that_was_killed_together_with_the_bus_runs_at_the_other(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    with (
        two_pools(tmp_path) as (service, first, second),
        Client(service.url, service.token) as client,
        Executor(first.endpoint_id, client=client, batch_size=1) as executor,
    ):
        futures = [executor.submit(leave_a_trace, str(effects), number, 0.5) for number in range(12)]
        eventually(lambda: len(read_runs(effects)) >= 4, 10, "as many as there are workers")
        victim = eventually(
            lambda: next((pool for pool in (first, second) if _bundles(pool)), None), 5, "one holds some"
        )

        service.nats.kill()
        assert victim is not None
        victim.kill()
        service.loop.run(service.nats.start())

        assert [future.result(30)[0] for future in futures] == list(range(12))
        runs = read_runs(effects)
        # What the dead pool's two workers ran, and what they had run without the bus to store it.
        assert sum(len(runs[number]) for number in range(12)) <= 12 + 4


def trace_behind_a_gate(path: str, number: int, gate: str, seconds: float) -> int:
    """The task: it leaves its trace, and goes on once the gate is there."""
    import os
    import time
    import uuid

    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{number} {uuid.uuid4().hex[:16]} {time.time():.6f} {seconds}\n".encode())
    os.close(descriptor)
    while not os.path.exists(gate):
        time.sleep(0.01)  # until the test opens it
    time.sleep(seconds)  # while the other pool is given it, too
    return number


def _bundles(pool: RunningPool) -> int:
    return int(json.loads(pool.status_path.read_text())["bundles"])
