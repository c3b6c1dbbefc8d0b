"""The supervisor, with small processes as its parts."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import eventually_async

from headrace.cli.supervisor import BackOff, Part, Running, Supervisor

pytestmark = pytest.mark.anyio


class Ended(Exception):
    """A part ended before it was ready."""


class Shell:
    """A shell command as a part; it writes down what happens to it, in the order in which it happens."""

    def __init__(self, name: str, script: str, history: list[str]) -> None:
        self.name = name
        self.starts = 0
        self.process: asyncio.subprocess.Process | None = None
        self._script = script
        self._history = history
        self.answers = asyncio.Event()
        self.answers.set()

    def part(self, broken: Callable[[], bool] | None = None) -> Part:
        return Part(name=self.name, start=self.start, ready=self.ready, stop_within_s=1.0, broken=broken)

    async def start(self) -> Running:
        self.starts += 1
        self._history.append(f"start {self.name}")
        self.process = await asyncio.create_subprocess_exec("sh", "-c", self._script)
        return self

    async def ready(self) -> None:
        await self.answers.wait()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def wait(self) -> int:
        assert self.process is not None
        return await self.process.wait()

    async def stop(self, grace_s: float) -> None:
        self._history.append(f"stop {self.name}")
        self.kill()
        await self.wait()

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


def supervised(*shells: Shell, back_off: BackOff | None = None) -> Supervisor:
    return Supervisor(
        [shell.part() for shell in shells],
        failed=lambda name, status: Ended(f"{name} {status}"),
        back_off=back_off or BackOff(first_s=0.01, longest_s=0.04),
    )


async def test_parts_start_in_order_and_stop_in_the_reverse_order() -> None:
    history: list[str] = []
    supervisor = supervised(Shell("bus", "exec sleep 60", history), Shell("service", "exec sleep 60", history))

    await supervisor.start()
    await supervisor.stop()

    assert history == ["start bus", "start service", "stop service", "stop bus"]


async def test_a_part_that_ends_before_it_is_ready_is_an_error() -> None:
    history: list[str] = []
    steady, broken = Shell("bus", "exec sleep 60", history), Shell("service", "exit 3", history)
    broken.answers.clear()
    supervisor = supervised(steady, broken)

    with pytest.raises(Ended, match="service 3"):
        await supervisor.start()

    await supervisor.stop()
    assert steady.process is not None
    assert steady.process.returncode == -signal.SIGKILL


async def test_a_part_that_ends_while_others_are_awaited_is_started_again() -> None:
    history: list[str] = []
    bus, service = Shell("bus", "sleep 30", history), Shell("service", "sleep 30", history)
    service.answers.clear()
    supervisor = supervised(bus, service)
    starting = asyncio.create_task(supervisor.start())
    await eventually_async(lambda: service.starts == 1)
    bus.kill()
    await eventually_async(lambda: bus.starts == 2)
    service.answers.set()
    await starting

    keeping = asyncio.create_task(supervisor.keep())
    bus.kill()
    await eventually_async(lambda: bus.starts == 3)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)  # It may be starting one: that one's end is its to see to.
    await supervisor.stop()
    assert history == ["start bus", "start service", "start bus", "start bus", "stop service", "stop bus"]


async def test_a_part_that_ends_is_started_again_and_the_others_are_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    history: list[str] = []
    steady, mortal = Shell("bus", "exec sleep 60", history), Shell("service", "exec sleep 60", history)
    supervisor = supervised(steady, mortal)
    await supervisor.start()
    keeping = asyncio.create_task(supervisor.keep())

    mortal.kill()
    await eventually_async(lambda: "service answers again." in caplog.messages)

    assert (steady.starts, mortal.starts) == (1, 2)
    assert "service ended (killed by signal 9); starting it again in 0.0 s. The others carry on." in caplog.messages
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await supervisor.stop()


async def test_the_pause_grows_while_a_part_keeps_ending_and_shrinks_after_a_stable_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shell = Shell("part", f"test -e {tmp_path}/stable && exec sleep 60; test -e {tmp_path}/once", [])
    (tmp_path / "stable").touch()
    supervisor = supervised(shell, back_off=BackOff(first_s=0.1, longest_s=0.4, stable_after_s=1.0))
    await supervisor.start()
    keeping = asyncio.create_task(supervisor.keep())

    (tmp_path / "stable").unlink()
    shell.kill()
    await eventually_async(lambda: _pauses(caplog) == [0.1, 0.2, 0.4, 0.4])
    (tmp_path / "stable").touch()
    starts = shell.starts
    await eventually_async(lambda: shell.starts > starts)
    started_at = asyncio.get_running_loop().time()
    await eventually_async(lambda: asyncio.get_running_loop().time() > started_at + 1.1)
    shell.kill()

    await eventually_async(lambda: _pauses(caplog)[-1] == 0.1)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await supervisor.stop()


async def test_a_part_that_cannot_be_started_again_is_tried_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fragile(Shell):
        async def start(self) -> Running:
            if (tmp_path / "full").exists():
                raise OSError("No space left on device")
            return await super().start()

    shell = Fragile("bus", "exec sleep 60", [])
    supervisor = supervised(shell)
    await supervisor.start()
    keeping = asyncio.create_task(supervisor.keep())

    (tmp_path / "full").touch()
    shell.kill()
    await eventually_async(lambda: any("bus cannot be started: No space left on device" in m for m in caplog.messages))
    (tmp_path / "full").unlink()

    await eventually_async(lambda: shell.starts == 2)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await supervisor.stop()


async def test_a_part_that_runs_and_cannot_work_is_started_anew(caplog: pytest.LogCaptureFixture) -> None:
    shell = Shell("bus", "exec sleep 60", [])
    part = shell.part(broken=lambda: shell.starts == 1)
    supervisor = Supervisor([part], failed=lambda name, status: Ended(name), back_off=BackOff(first_s=0.01))
    await supervisor.start()
    keeping = asyncio.create_task(supervisor.keep())

    await eventually_async(lambda: shell.starts == 2)

    assert "bus runs, but cannot work any more; ending it." in caplog.messages
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await supervisor.stop()


def _pauses(caplog: pytest.LogCaptureFixture) -> list[float]:
    return [record.args[2] for record in caplog.records if "ended" in record.msg and isinstance(record.args, tuple)]  # type: ignore[misc]  # the logger's arguments have no type
