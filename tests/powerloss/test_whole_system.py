"""The power of the whole machine fails under load; its clients are elsewhere, and remember what they were told.

Every bundle that was acknowledged is there, or its results are; no result that was shown is gone or another one; every
future has its end.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.accounts import reckon
from chaos.system_under_fire import Load, SystemUnderFire
from powerloss.disk import power_disk
from powerloss.layers import Model
from waiting import eventually


@contextlib.contextmanager
def under_load(
    directory: Path, seed: int, *clients: str, most_open: int = 1500
) -> Iterator[tuple[SystemUnderFire, Load]]:
    """`headrace up` on a disk that forgets, with clients that have had their first results."""
    with (
        power_disk(directory / "disk", Model.JOURNAL) as disk,
        SystemUnderFire(directory, seed=seed, disk=disk, workers=2) as system,
    ):
        load = Load(system, directory / "load", long_share=0.04, most_open=most_open)
        try:
            for name in clients:
                load.start(name)
            yield system, load
        finally:
            load.close()


def await_more(load: Load) -> None:
    """Wait until it works again, and has done some of what it was held up with."""
    seen = len(load.lines("bob.results"))
    eventually(lambda: len(load.lines("bob.results")) > seen + 100, 30, "it works again")


def test_what_clients_were_told_is_there_after_a_power_cut(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)  # noqa: S311 - a repeatable misfortune
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    with under_load(tmp_path, seed, "ada", most_open=150) as (system, load):
        system.cut_power()
        load.finish()

        reckoning = reckon(load, system.failures)

        print(reckoning)  # noqa: T201 - shown in a long run, and when it fails
        assert reckoning.acknowledged > 0
        assert reckoning.repeated_once == 0


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_what_clients_were_told_is_there_after_many_power_cuts(tmp_path: Path) -> None:
    cuts = int(os.environ.get("POWERLOSS_CUTS", "40")) // 4
    seed = int(os.environ.get("POWERLOSS_SEED") or random.randrange(1 << 30))  # noqa: S311 - a repeatable misfortune
    print(f"\nPOWERLOSS_SEED={seed}", flush=True)  # noqa: T201 - shown in a long run, and when it fails
    with under_load(tmp_path, seed, "ada", "bob") as (system, load):
        for number in range(cuts):
            if number % 3 == 2:
                # Nobody is left who could send again what was lost.
                victim = f"ada-{number - 3}" if number > 2 else "ada"
                load.kill(victim)
                system.cut_power()
                load.attach(f"eve-{number}", to=victim)
                load.start(f"ada-{number}")
            else:
                system.cut_power()
            await_more(load)
        load.finish()
        print(f"{cuts} power cuts\n{reckon(load, system.failures)}", flush=True)  # noqa: T201 - shown in a long run, and when it fails
        system.stop()
