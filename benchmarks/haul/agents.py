"""Simulated endpoints, many in one process: real agents, whose engine ends every call at once without running it.

    python -m benchmarks.haul.agents URL DIRECTORY

Each line of its input is `ENDPOINT_ID TOKEN`; it answers `ready` when that endpoint takes tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from headrace.bus.data.encodings import MSGPACK
from headrace.bus.data.values import encode
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import Runtime
from headrace.endpoint.agent.loop import Agent
from headrace.endpoint.engines.engine import Load, Outcome, OutcomesCallback, Source
from headrace.endpoint.pool_service import HttpPoolService

_WORKERS = 2


class Agents:
    """Starts the process, from the outside."""

    def __init__(self, url: str, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.haul.agents", url, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def add(self, endpoint_id: str, token: str) -> None:
        """Let one more endpoint be served; returns when it is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{endpoint_id} {token}\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError(f"the simulated endpoints ended with status {self._process.wait()}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class InstantEngine:
    """Ends every call with None as soon as it is asked to look."""

    def __init__(self, source: Source, on_outcomes: OutcomesCallback) -> None:
        self._source = source
        self._on_outcomes = on_outcomes
        self._woken = False
        self._encoding, self._none = encode(None)
        assert self._encoding == MSGPACK

    async def start(self) -> None:
        self.wake()

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        self._woken = False
        now, outcomes = time.time(), []
        while (call := self._source.next_call()) is not None:
            outcomes.append(
                Outcome(
                    key=call.key,
                    state="succeeded",
                    encoding=self._encoding,
                    value=self._none,
                    started_at=now,
                    ended_at=now,
                    worker="simulated",
                )
            )
        if outcomes:
            self._on_outcomes(outcomes)
            self.wake()

    def cancel(self, keys: Iterable[UUID], *, force: bool = False) -> None:
        """There is never anything to cancel."""

    def take_back(self, keys: Iterable[UUID]) -> list[UUID]:
        return []

    async def stop(self, *, grace_s: float) -> list[UUID]:
        return []

    def load(self) -> Load:
        return Load(workers=_WORKERS, busy=0, queued=0)

    def running(self) -> list[UUID]:
        return []

    def pids(self) -> list[int]:
        return []


async def _serve(url: str, directory: Path, endpoint_id: str, token: str, ready: asyncio.Event) -> None:
    token_path = directory / f"{endpoint_id}.token"
    token_path.write_text(token)
    service = HttpPoolService(url, endpoint=UUID(endpoint_id), pool="default", token_path=token_path)
    with contextlib.closing(service):
        grant = await asyncio.to_thread(service.grant_pool)
        async with Connection(grant.urls, grant.credentials, name="simulated pool") as connection:
            runtime = Runtime(python=sys.version.split()[0], headrace="simulated")
            agent = Agent(service, connection, grant, InstantEngine, runtime=runtime)
            ready.set()
            await agent.run()


async def _main(url: str, directory: Path) -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with asyncio.TaskGroup() as group:
        while line := await lines.readline():
            endpoint_id, token = line.decode().split()
            ready = asyncio.Event()
            group.create_task(_serve(url, directory, endpoint_id, token, ready), name=endpoint_id)
            await ready.wait()
            print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2])))
