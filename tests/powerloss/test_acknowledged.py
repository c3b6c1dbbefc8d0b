"""What was acknowledged is on the disk: a power cut at any moment loses none of it.

The disk fails before some change to it, chosen by a seed: from then on it is silent, so nothing later can be
acknowledged. The server is killed, what was not synced is dropped (or kept by lot, page by page), and a server is
started on what is left.

`make powerloss` cuts more often: POWERLOSS_CUTS, and POWERLOSS_SEED for an order of failures again.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from powerloss.disk import PowerDisk, power_disk
from powerloss.layers import Cut, Model
from powerloss.storekeeper import Ledger, Missing, Storekeeper
from waiting import eventually_async

from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings

pytestmark = pytest.mark.anyio

_FIRST_CUT = 20
"""Fewer changes than this, and the server has not even begun."""
_FAILS_WITHIN_S = 30.0


class Machine:
    """A computer with a NATS server and a disk, whose power fails again and again."""

    def __init__(self, directory: Path, disk: PowerDisk, seed: int, *, relaxed: bool = False) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a repeatable misfortune
        self.ledger = Ledger()
        self.disk = disk
        self._operator = Operator.open(directory / "keys")
        # The store alone is on the disk: this process must not wait for a disk whose power it has to cut.
        server = directory / "nats"
        server.mkdir()
        (server / "jetstream").symlink_to(disk.path)
        settings = ServerSettings(accounts=self._operator.accounts(), directory=server, start_within_s=30)
        self._server = NatsServer(replace(settings, relaxed=relaxed))

    async def run_until_cut(self, changes: int, cut: Cut) -> None:
        """Run until the power fails, before that many changes to the disk; start with what is left after that."""
        self.disk.stop_after(changes)
        running = asyncio.create_task(self._run(), name="machine")
        try:
            await eventually_async(lambda: self.disk.counts["stopped"] or running.done(), _FAILS_WITHIN_S, "it fails")
            if running.done():
                await running  # it was not the power: this raises what it was
        finally:
            self._server.kill()
            self.disk.cut(cut, self.random.getrandbits(32))
            await self._server.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def missing(self) -> Missing:
        """Start, and look for everything that was acknowledged in all lives so far."""
        await self._server.start()
        try:
            async with self._keeper() as keeper:
                await keeper.prepare()
                return await keeper.missing()
        finally:
            await self._server.stop()

    async def _run(self) -> None:
        await self._server.start()
        async with self._keeper() as keeper:
            await keeper.prepare()
            await keeper.keep_storing()

    def _keeper(self) -> Storekeeper:
        return Storekeeper(self._server.url, self._operator, self.ledger, self.random)


def _seed() -> int:
    seed = int(os.environ.get("POWERLOSS_SEED") or random.randrange(1 << 30))  # noqa: S311 - a repeatable misfortune
    print(f"\nPOWERLOSS_SEED={seed}", flush=True)  # noqa: T201 - shown when it fails
    return seed


@pytest.mark.parametrize("cut", Cut)
async def test_everything_acknowledged_survives_power_cuts(tmp_path: Path, cut: Cut) -> None:
    with power_disk(tmp_path / "disk", Model.JOURNAL) as disk:
        machine = Machine(tmp_path, disk, _seed())
        for changes in (machine.random.randint(_FIRST_CUT, 400), machine.random.randint(400, 1500)):
            await machine.run_until_cut(changes, cut)

        missing = await machine.missing()

        assert machine.ledger.entries > 0
        assert missing.lost == []
        assert missing.back == []


async def test_relaxed_durability_loses_what_it_acknowledged(tmp_path: Path) -> None:
    with power_disk(tmp_path / "disk", Model.JOURNAL) as disk:
        machine = Machine(tmp_path, disk, _seed(), relaxed=True)
        await machine.run_until_cut(1000, Cut.DROP)
        assert len(machine.ledger.stored) > 100

        missing = await machine.missing()

        assert len(missing.lost) > 100


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("cut", Cut)
async def test_everything_acknowledged_survives_many_power_cuts(tmp_path: Path, cut: Cut) -> None:
    cuts, seed = int(os.environ.get("POWERLOSS_CUTS", "40")), _seed()
    with power_disk(tmp_path / "disk", Model.JOURNAL) as disk:
        machine, looked, back = Machine(tmp_path, disk, seed), 0, 0
        for number in range(cuts):
            await machine.run_until_cut(machine.random.randint(_FIRST_CUT, 3000), cut)
            if number % 10 == 9:
                # Not after every cut: recovering from a recovery that was cut off is part of it.
                missing = await machine.missing()
                assert missing.lost == []
                looked, back = looked + machine.ledger.entries, back + len(missing.back)
                machine.ledger = Ledger()
        print(f"{cuts} cuts ({cut}): {looked} acknowledgements held, {back} removed messages came back")  # noqa: T201 - shown in a long run, and when it fails
        assert looked > 0
