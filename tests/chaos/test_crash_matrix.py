"""Kill anything, at any moment, and every task ends exactly once.

The window in which a task may run twice: it was running, or had run and its result was not stored, when its worker,
its pool or NATS died. With `rerun_on_loss=False` it is empty: such a task ends as `TaskLost` when it had started.

The long run: `make chaos`, with CHAOS_SECONDS and CHAOS_SEED.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.accounts import read_runs, reckon
from chaos.system_under_fire import KILLS, POOL, Load, SystemUnderFire
from waiting import eventually, let_pass

from headrace.sdk import Client, Executor


@contextlib.contextmanager
def under_load(directory: Path, seed: int, long_share: float) -> Iterator[tuple[SystemUnderFire, Load]]:
    """A system with two clients that have had their first results."""
    with SystemUnderFire(directory, seed=seed) as system:
        load = Load(system, directory / "load", long_share=long_share)
        try:
            load.start("ada")
            load.start("bob")
            yield system, load
        finally:
            load.close()


@pytest.mark.timeout(120)
def test_every_task_ends_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)  # noqa: S311 - a repeatable misfortune
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    with under_load(tmp_path, seed, long_share=0.04) as (system, load):
        for what in ("worker", "nats", "pool", "service", "manager"):
            KILLS[what](system)
        load.kill("bob")
        load.attach("eve", to="bob")
        KILLS["everything"](system)
        load.finish()

        reckoning = reckon(load, system.failures)

        print(reckoning)  # noqa: T201 - shown in a long run, and when it fails
        assert reckoning.repeated_once == 0
        assert [failure.what for failure in system.failures] == [
            "worker", "nats", "pool", "service", "manager", "client", "up",
        ]  # fmt: skip
        system.stop()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_every_task_ends_exactly_once_after_a_long_siege(tmp_path: Path) -> None:
    duration_s = float(os.environ.get("CHAOS_SECONDS", "180"))
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 30))  # noqa: S311 - a repeatable misfortune
    print(f"\nCHAOS_SEED={seed} CHAOS_SECONDS={duration_s:g}", flush=True)  # noqa: T201 - shown in a long run, and when it fails
    with under_load(tmp_path, seed, long_share=0.02) as (system, load):
        end, clients = time.monotonic() + duration_s, 0
        while time.monotonic() < end:
            let_pass(system.random.uniform(0.0, 3.0), "a random moment, also while the last failure is recovered from")
            what = system.random.choice([*KILLS, "client"])
            print(f"{time.strftime('%H:%M:%S')} kill {what}", flush=True)  # noqa: T201 - shown in a long run, and when it fails
            if what != "client":
                KILLS[what](system)
                continue
            clients += 1
            victim = "ada" if clients == 1 else f"ada-{clients - 1}"
            load.kill(victim)
            load.attach(f"eve-{clients}", to=victim)
            load.start(f"ada-{clients}")
        load.finish()
        counts = {what: sum(f.what == what for f in system.failures) for what in {f.what for f in system.failures}}
        print(f"killed: {counts}\n{reckon(load, system.failures)}", flush=True)  # noqa: T201 - shown in a long run, and when it fails
        system.stop()


def test_what_ran_in_a_killed_pool_runs_again_soon(tmp_path: Path) -> None:
    def trace_and_wait(path: str, number: int) -> int:
        import time
        from pathlib import Path

        with Path(path).open("a") as file:
            file.write(f"{number} run {time.time()} 0.7\n")
        time.sleep(0.7)  # long enough to be killed in, as the line says
        return number

    effects = str(tmp_path / "effects")
    with (
        SystemUnderFire(tmp_path, seed=1, workers=2) as system,
        Client(system.up.url, system.up.token) as client,
        Executor(client=client) as executor,
    ):
        executor.submit(int).result(20)
        futures = [executor.submit(trace_and_wait, effects, number) for number in range(2)]
        eventually(lambda: len(read_runs(tmp_path / "effects")) == 2)

        deadline = time.monotonic() + 5
        system.kill_pool()

        def run_again() -> bool:
            return any(len(runs) > 1 for runs in read_runs(tmp_path / "effects").values())

        eventually(run_again, deadline - time.monotonic(), "a task of the killed pool runs again")
        assert [future.result(60) for future in futures] == [0, 1]
        assert len(system.pids(POOL)) == 1
