"""The order of the system calls: the bytes of a message are synced before its acknowledgement is sent."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import StreamSettings, ensure

pytestmark = pytest.mark.anyio

MESSAGES = 40

_CALL = re.compile(r"^(?P<thread>\d+) +(?P<call>\w+)\(\d+<(?P<file>[^>]*)>(?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<thread>\d+) +<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)$")
_SYNCS = ("fsync", "fdatasync")


@contextlib.contextmanager
def straced(pid: int, trace: Path) -> Iterator[None]:
    """Write down what a process writes and syncs."""
    calls = "trace=write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync"
    with subprocess.Popen(
        ["strace", "-f", "-y", "-s", "400", "-e", calls, "-e", "signal=none", "-o", trace, "-p", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as strace:
        assert strace.stderr is not None
        if b"attached" not in strace.stderr.readline():
            pytest.skip("strace may not attach to a process here")
        yield
        strace.send_signal(signal.SIGINT)
        strace.communicate(timeout=10)


async def acknowledgements(directory: Path, *, relaxed: bool) -> list[bool]:
    """Store messages one by one; for each acknowledgement, whether everything written was synced when it was sent."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    operator, trace = Operator.open(directory / "keys"), directory / "trace"
    settings = replace(ServerSettings(accounts=operator.accounts(), directory=directory / "nats"), relaxed=relaxed)
    async with (
        NatsServer(settings) as server,
        Connection([server.url], operator.minter.core_user("test", 600), name="test") as core,
    ):
        await ensure(core, StreamSettings())
        with straced(server.pid, trace):
            async with asyncio.timeout(10):
                while not (trace.exists() and trace.stat().st_size):
                    await core.flush()  # an answer is a call that it sees
            for number in range(MESSAGES):
                await core.store(f"task.e.p.a.g.{number}", b"a bundle")
    return list(_synced_at_acknowledgements(trace.read_text(errors="replace").splitlines()))


def _synced_at_acknowledgements(lines: list[str]) -> Iterator[bool]:
    unsynced: set[str] = set()
    under_way: dict[str, str] = {}
    for line in lines:
        if (call := _CALL.match(line)) is not None:
            name, file, rest = call["call"], call["file"], call["rest"]
            if name not in _SYNCS and file.endswith(".blk") and "/TASKS/" in file:
                unsynced.add(file)
            elif name in _SYNCS and rest.endswith("= 0"):
                unsynced.discard(file)
            elif name in _SYNCS:
                under_way[call["thread"]] = file
            elif r"\"stream\":\"TASKS\"" in rest and r"\"seq\":" in rest:
                yield not unsynced
        elif (resumed := _RESUMED.match(line)) is not None and resumed["rest"].endswith("= 0"):
            unsynced.discard(under_way.pop(resumed["thread"], ""))


async def test_a_message_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    acknowledged = await acknowledgements(tmp_path, relaxed=False)

    assert len(acknowledged) >= MESSAGES - 1
    assert all(acknowledged)


async def test_with_relaxed_durability_it_is_not(tmp_path: Path) -> None:
    acknowledged = await acknowledgements(tmp_path, relaxed=True)

    assert len(acknowledged) >= MESSAGES - 1
    assert not any(acknowledged[1:])
