"""A `headrace` command as a child process: its log, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from headrace_up import is_alive
from waiting import eventually_async

from headrace.bus.log_files import LONGEST_LOG_BYTES
from headrace.cli.child import Child

pytestmark = pytest.mark.anyio


async def test_what_it_says_is_appended_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "version.log"

    for _ in range(2):
        child = await Child.start(["version"], log=log)
        assert await child.wait() == 0

    first, second = log.read_text().splitlines()
    assert first == second
    assert first.startswith("headrace ")


async def test_a_log_that_is_long_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "version.log"
    with log.open("wb") as file:
        file.truncate(LONGEST_LOG_BYTES + 1)

    child = await Child.start(["version"], log=log)
    await child.wait()

    assert log.stat().st_size < 100
    assert (tmp_path / "version.log.1").stat().st_size == LONGEST_LOG_BYTES + 1


async def test_a_module_in_the_current_directory_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)

    child = await Child.start(["version"], log=tmp_path / "version.log")

    assert await child.wait() == 0


async def test_one_that_ignores_the_request_to_stop_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = await Child.start(["serve", "--help"], log=tmp_path / "serve.log")
    os.kill(child.pid, signal.SIGSTOP)

    await child.stop(0.1)

    assert not is_alive(child.pid)


async def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib, os, signal
from headrace.cli.child import Child
async def main():
    child = await Child.start(["serve", "--help"], log=pathlib.Path({str(tmp_path / "x.log")!r}))
    os.kill(child.pid, signal.SIGSTOP)
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:  # noqa: ASYNC220 - its first line is all that is waited for
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)

        parent.kill()

        await eventually_async(lambda: not is_alive(pid), message="the child ended with its parent")
