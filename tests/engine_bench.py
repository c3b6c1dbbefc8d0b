"""A process engine with real workers for tests, the source that it pulls from, and the outcomes that it gave.

async with running(workers=2) as bench:
    assert await bench.value(bench.submit(function, argument)) == ...
"""

from __future__ import annotations

import collections
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

from waiting import eventually_async

from headrace.bus.data.arguments import encode_arguments, encode_json_arguments
from headrace.bus.data.failures import Failure, decode_failure
from headrace.bus.data.values import decode
from headrace.bus.functions.code import from_function, from_source
from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.engines.engine import Call, Outcome
from headrace.endpoint.engines.processes.engine import ProcessEngine


class Bench:
    """An engine, the source that it pulls from, and the outcomes that it gave."""

    def __init__(self, workers: int, engine_of: Any = ProcessEngine, **settings: Any) -> None:
        self.waiting: collections.deque[Call] = collections.deque()
        self.outcomes: dict[uuid.UUID, Outcome] = {}
        self.doubled: list[uuid.UUID] = []
        self.reports: list[int] = []
        self._functions: dict[Any, tuple[uuid.UUID, Any]] = {}
        self.engine = engine_of(self, self._take, workers=workers, **settings)

    def forget_functions(self) -> None:
        """Register them anew, so that the engine knows nothing of them."""
        self._functions.clear()

    def next_call(self) -> Call | None:
        return self.waiting.popleft() if self.waiting else None

    def _take(self, outcomes: list[Outcome]) -> None:
        self.reports.append(len(outcomes))
        self.doubled += [o.key for o in outcomes if o.key in self.outcomes]
        self.outcomes.update((o.key, o) for o in outcomes)

    def submit(self, function: Any, *args: Any, options: TaskOptions | None = None, **kwargs: Any) -> uuid.UUID:
        key = self.put(function, *args, options=options, **kwargs)
        self.engine.wake()
        return key

    def put(self, function: Any, *args: Any, options: TaskOptions | None = None, **kwargs: Any) -> uuid.UUID:
        if function not in self._functions:
            code = from_source(function) if isinstance(function, str) else from_function(function)
            self._functions[function] = uuid.uuid4(), code
        function_id, code = self._functions[function]
        options = options or TaskOptions()
        encode = encode_json_arguments if options.json_result else encode_arguments
        encoding, arguments = encode(args, kwargs)
        key = uuid.uuid4()
        self.waiting.append(
            Call(key=key, function=function_id, encoding=encoding, arguments=arguments, options=options, code=code)
        )
        return key

    async def outcome(self, key: uuid.UUID, within_s: float = 10) -> Outcome:
        await eventually_async(lambda: key in self.outcomes, within_s, f"the outcome of {key}")
        return self.outcomes[key]

    async def value(self, key: uuid.UUID) -> Any:
        outcome = await self.outcome(key)
        assert outcome.state == "succeeded", decode_failure(outcome.value)
        return decode(outcome.encoding, outcome.value)

    async def failure(self, key: uuid.UUID, state: str = "failed") -> Failure:
        outcome = await self.outcome(key)
        assert outcome.state == state
        return decode_failure(outcome.value)

    async def all_values(self, keys: list[uuid.UUID]) -> list[Any]:
        return [await self.value(key) for key in keys]


@contextlib.asynccontextmanager
async def running(workers: int = 2, **settings: Any) -> AsyncIterator[Bench]:
    bench = Bench(workers, **settings)
    await bench.engine.start()
    try:
        yield bench
    finally:
        await bench.engine.stop(grace_s=0)
        assert bench.doubled == [], "every call has one outcome"
