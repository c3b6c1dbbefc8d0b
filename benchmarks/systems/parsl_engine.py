"""Our ParslEngine alone, on the same workers as Parsl: what it adds to Parsl, without service, bus and pool."""

from __future__ import annotations

import asyncio
import collections
import itertools
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.systems import WORKERS
from headrace.bus.data.arguments import encode_arguments
from headrace.bus.data.values import decode
from headrace.bus.functions.code import FunctionCode, from_function
from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.engines.build import build
from headrace.endpoint.engines.engine import Call, Engine, Outcome
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.settings import engine_settings

PROVIDER = {"type": "LocalProvider", "init_blocks": 1, "min_blocks": 1, "max_blocks": 1}
ENGINE = {"type": "ParslEngine", "max_workers_per_node": WORKERS, "provider": PROVIDER, "encrypted": False}
"""One block on this machine, as Parsl itself is measured: which, unlike our engine, does not encrypt by default."""

_STOP_S = 10.0


class ParslEngineAlone:
    """The engine in an event loop of its own, as in a pool. Values are encoded and decoded as they always are."""

    def __init__(self, work: Path) -> None:
        self._directory = work / "engine"
        self._calls: collections.deque[Call] = collections.deque()
        self._waiting: dict[uuid.UUID, Future[Outcome]] = {}
        self._functions: dict[Callable[..., Any], tuple[uuid.UUID, FunctionCode]] = {}
        self._numbers = itertools.count(1)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._engine: Engine | None = None

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Outcome]:
        known = self._functions.get(function)
        if known is None:
            known = self._functions[function] = uuid.uuid4(), from_function(function)
        encoding, arguments = encode_arguments(args, {})
        call = Call(
            key=uuid.UUID(int=next(self._numbers)),
            function=known[0],
            encoding=encoding,
            arguments=arguments,
            options=TaskOptions(),
            code=known[1],
        )
        future: Future[Outcome] = Future()
        self._waiting[call.key] = future
        self._calls.append(call)
        assert self._engine is not None
        self._loop.call_soon_threadsafe(self._engine.wake)
        return future

    def results(self, handles: Sequence[Future[Outcome]]) -> list[Any]:
        outcomes = [handle.result() for handle in handles]
        assert all(outcome.state == "succeeded" for outcome in outcomes)
        return [decode(outcome.encoding, outcome.value) for outcome in outcomes]

    def stop(self) -> None:
        if self._engine is not None:
            asyncio.run_coroutine_threadsafe(self._engine.stop(grace_s=0), self._loop).result(_STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def next_call(self) -> Call | None:
        """For the engine."""
        return self._calls.popleft() if self._calls else None

    async def _start(self) -> None:
        means = Means(workers=WORKERS, directory=self._directory)
        self._engine = build(engine_settings(ENGINE), self, self._take, means)
        await self._engine.start()

    def _take(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self._waiting.pop(outcome.key).set_result(outcome)
