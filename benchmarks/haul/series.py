"""What grows, one series each: stored tasks, queued bundles, endpoints, clients ...; round trips under half load."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from benchmarks.functions import no_op
from benchmarks.haul.actions import actions
from benchmarks.haul.agents import Agents
from benchmarks.haul.clients import ClientProcess, run
from benchmarks.haul.probes import Point, Usage, disk_mb, round_trips, steps
from benchmarks.haul.submissions import submissions
from benchmarks.systems.headrace import Headrace
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.bundles import TaskOptions
from headrace.bus.tasks.submission import Call, Submission, submit
from headrace.sdk import Executor

TRIPS = 200
PROBE_TASKS = 5_000
_OURS = ("nats", "service", "pool", "client")
_TASKS_EACH = 300
_BUNDLE = 16
"""Tasks in a bundle where the costs of many small submitters are compared: alone, one would make larger ones."""
_PUBLISHERS = 64
_HALF_LOAD_S = 8.0
_ADMIN = "urn:headrace:user:admin"


@dataclass(slots=True)
class Haul:
    """A fresh system for one series."""

    system: Headrace
    work: Path
    factor: float

    @property
    def executor(self) -> Executor:
        executor = self.system._executor
        assert executor is not None
        return executor

    def role(self, command: Sequence[str]) -> str:
        words = " ".join(command)
        for mark in ("agents", "clients"):
            if f"benchmarks.haul.{mark}" in words:
                return mark
        return self.system.role(command)

    def usage(self) -> Usage:
        return Usage.now(self.role)

    def trips(self, executor: Executor | None = None) -> dict[str, float]:
        chosen = executor or self.executor
        return round_trips(lambda: chosen.submit(no_op).result(60), max(20, round(TRIPS * min(1.0, self.factor * 10))))

    def probe(self, tasks: int, work: Callable[[], float], *roles: str) -> dict[str, float]:
        """The throughput of some work that runs so many tasks, and what each costs."""
        bundles, before = self.bus(_bundles_ever), self.usage()
        took_s = work()
        after, bundles = self.usage(), self.bus(_bundles_ever) - bundles
        cost = after.cost(before, tasks, *_OURS, *roles)
        return (
            {"per_s": tasks / took_s, "tasks_per_bundle": tasks / bundles}
            | cost
            | {f"{name}_bundle": cost[name] * tasks / bundles for name in ("cpu_us", "nats_us")}
            | after.memory(*_OURS, *roles)
        )

    def probe_tasks(self) -> int:
        return max(500, round(PROBE_TASKS * min(1.0, self.factor * 10)))

    def jetstream_mb(self) -> float:
        return disk_mb(self.work / "home" / "nats" / "jetstream")

    def bus(self, work: Any) -> Any:
        """`await work(connection, keys)` with the rights of a service."""

        async def connected() -> Any:
            keys = ServiceKeys.load(self.work / "home" / "keys")
            async with Connection([self.system.ready["nats_url"]], keys.core, name="long haul") as connection:
                return await work(connection, keys)

        return asyncio.run(connected())


def stored_tasks(haul: Haul) -> Iterator[Point]:
    """Results that are kept grow to 1 000 000."""
    stored = 0
    for size in steps(1_000_000, 1_000, haul.factor):
        tasks = min(haul.probe_tasks(), size - stored)
        run(haul.executor, size - stored - tasks)
        figures = haul.probe(tasks, partial(run, haul.executor, tasks))
        stored = size
        yield Point("stored tasks", stored, figures | haul.trips() | {"disk_mb": haul.jetstream_mb()})


def queued_bundles(haul: Haul) -> Iterator[Point]:
    """Bundles of one task each wait for an endpoint that is away: up to 100 000. Then it comes."""
    client = haul.system.client
    absent = client.register_endpoint("absent")
    function = UUID(client.register_function(no_op))
    queued = 0
    for size in steps(100_000, 1_000, haul.factor):
        before, began = haul.usage(), time.perf_counter()
        haul.bus(lambda connection, keys, n=size - queued: _queue(connection, keys, absent, function, n))
        took_s, after = time.perf_counter() - began, haul.usage()
        figures = {"per_s": (size - queued) / took_s} | after.cost(before, size - queued, *_OURS)
        queued = size
        yield Point("queued bundles", queued, figures | after.memory(*_OURS) | haul.trips())
    agents = Agents(client.url, haul.work)
    with contextlib.closing(agents):
        agents.add(absent["endpoint_id"], absent["endpoint_token"])
        left = queued
        for goal in (round(queued * 0.9), round(queued * 0.5), round(queued * 0.1), 0):
            before, began = haul.usage(), time.perf_counter()
            while (now := haul.bus(_bundles_left)) > goal:
                time.sleep(0.05)
            took_s, after = time.perf_counter() - began, haul.usage()
            if now == left:
                continue  # a short queue was gone before we looked
            figures = {"per_s": (left - now) / took_s} | after.cost(before, left - now, *_OURS, "agents")
            yield Point("queued bundles, taken", now, figures | after.memory(*_OURS, "agents"))
            left = now


async def _queue(connection: Connection, keys: ServiceKeys, endpoint: Any, function: UUID, count: int) -> None:
    key_ring, numbers, group = keys.key_ring(), iter(range(count)), uuid4()
    lanes = Lanes(connection, key_ring, Tables.on(connection).lanes)

    async def publish() -> None:
        for _ in numbers:
            submission = Submission(
                principal=_ADMIN,
                endpoint=UUID(endpoint["endpoint_id"]),
                group=group,
                calls=[Call(function=function)],
                options=TaskOptions(),
            )
            await submit(connection, key_ring, lanes, submission)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_PUBLISHERS):
            tasks.create_task(publish())


async def _bundles_ever(connection: Connection, _: ServiceKeys) -> int:
    return int((await connection.api("STREAM.INFO.TASKS"))["state"]["last_seq"])


async def _bundles_left(connection: Connection, _: ServiceKeys) -> int:
    return int((await connection.api("STREAM.INFO.TASKS"))["state"]["messages"])


def endpoints(haul: Haul) -> Iterator[Point]:
    """Endpoints grow to 200, with simulated agents in one process; an executor for each."""
    client = haul.system.client
    with contextlib.ExitStack() as stack:
        agents = Agents(client.url, haul.work)
        stack.callback(agents.close)
        executors: list[Executor] = []
        for size in steps(200, 3, haul.factor):
            while len(executors) < size:
                made = client.register_endpoint(f"simulated-{len(executors)}")
                agents.add(made["endpoint_id"], made["endpoint_token"])
                executors.append(stack.enter_context(Executor(made["endpoint_id"], client=client, batch_size=_BUNDLE)))
                executors[-1].submit(no_op).result(60)
            tasks = max(haul.probe_tasks() // size, _TASKS_EACH) * size
            _over_all(executors, tasks // 4)
            figures = haul.probe(tasks, partial(_over_all, executors, tasks), "agents")
            yield Point("endpoints", size, figures | haul.trips(executors[0]))


def _over_all(executors: Sequence[Executor], tasks: int) -> float:
    began = time.perf_counter()
    each = tasks // len(executors)
    futures = [executor.submit(no_op) for _ in range(each) for executor in executors]
    for future in futures:
        future.result(120)
    return time.perf_counter() - began


def clients(haul: Haul) -> Iterator[Point]:
    """Clients grow to 50, each a process, all submitting at once."""
    with contextlib.ExitStack() as stack:
        processes: list[ClientProcess] = []
        for size in steps(50, 1, haul.factor):
            while len(processes) < size:
                processes.append(stack.enter_context(contextlib.closing(ClientProcess(haul.system.ready))))
                assert processes[-1].answer() == "ready"
            share = max(_TASKS_EACH, 2 * haul.probe_tasks() // size)
            figures = haul.probe(share * size, partial(_all_run, processes, share), "clients")
            yield Point("clients", size, figures | haul.trips())


def _all_run(processes: Sequence[ClientProcess], share: int) -> float:
    began = time.perf_counter()
    for process in processes:
        process.ask("run", share)
    for process in processes:
        process.answer()
    return time.perf_counter() - began


def half_load(haul: Haul) -> Iterator[Point]:
    """The round trip while nothing else is done, and while another client takes half of what there is."""
    yield Point("load, percent", 0, haul.trips())
    with contextlib.closing(ClientProcess(haul.system.ready)) as other:
        assert other.answer() == "ready"
        tasks = 4 * haul.probe_tasks()
        other.ask("run", tasks)
        most_per_s = tasks / float(other.answer())
        for percent in (25, 50):
            seconds = _HALF_LOAD_S * min(1.0, haul.factor * 10)
            other.ask("offer", most_per_s * percent / 100, seconds)
            figures = haul.trips()
            yield Point("load, percent", percent, figures | {"per_s": int(other.answer()) / seconds})


Series = Callable[[Haul], Iterator[Point]]

SERIES: dict[str, Series] = {
    "stored": stored_tasks,
    "queued": queued_bundles,
    "endpoints": endpoints,
    "clients": clients,
    "load": half_load,
    "submitted": submissions,
    "actions": actions,
}
