"""Two dispatchers share the subscriptions with flow control; one is killed, and the other goes on within seconds."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from events_desk import FLOW_NOTES, EventsDesk, Notes
from running_pool import running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.bus.eventing.dispatcher import Dispatcher
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables

DISPATCHER = """
import asyncio, sys
from pathlib import Path
from headrace.bus.eventing.dispatcher import Dispatcher
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables

async def main(url, directory):
    keys = ServiceKeys.load(Path(directory))
    async with Connection([url], keys.core, name="dispatcher") as connection:
        await Dispatcher(connection, keys.key_ring(), Tables.on(connection)).run()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), dispatcher=False) as running:
        yield running


@contextlib.contextmanager
def dispatcher(service: RunningService) -> Iterator[None]:
    """A dispatcher in this process."""

    async def work() -> None:
        keys = ServiceKeys.load(service.keys_dir)
        async with Connection([service.nats.url], keys.core, name="dispatcher") as connection:
            await Dispatcher(connection, keys.key_ring(), Tables.on(connection)).run()

    future = asyncio.run_coroutine_threadsafe(work(), service.loop.loop)
    try:
        yield
    finally:
        future.cancel()
        with contextlib.suppress(concurrent.futures.CancelledError):
            future.result(60)


@contextlib.contextmanager
def dispatcher_process(service: RunningService) -> Iterator[subprocess.Popen[bytes]]:
    """A dispatcher that can be killed."""
    process = subprocess.Popen([sys.executable, "-c", DISPATCHER, service.nats.url, str(service.keys_dir)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def queue_of(desk: EventsDesk, subscription: str) -> dict[str, Any]:
    document: dict[str, Any] = desk.http.get(f"/api/v1/subscriptions/{subscription}").json()["queue"]
    return document


def test_whoever_takes_over_goes_on_in_order_and_within_the_limits(service: RunningService, tmp_path: Path) -> None:
    with running_pool(service, tmp_path / "pool", workers=4) as pool:
        desk = EventsDesk(service.http(), tmp_path, service.add_function(FLOW_NOTES, "work"), pool.endpoint_id)
        ordered, batched = desk.notes(), desk.notes()
        retry = {"max_attempts": 2, "first_delay_s": 0.2, "jitter": 0}
        in_order = desk.subscribe(
            "ordered",
            ordered,
            "{{ event }}",
            kwargs={"bad": ["a3"], "seconds": 0.02},
            flow={"order_by": "data.key", "concurrency": 2},
            retry=retry,
        )
        in_batches = desk.subscribe(
            "batched",
            batched,
            "{{ events }}",
            kwargs={"bad": ["7"], "seconds": 0.02},
            flow={"batch": {"size": 4, "bisect": True}, "concurrency": 2},
            retry=retry,
        )
        subscriptions = (in_order, in_batches)
        with dispatcher_process(service) as first:
            holder = eventually(lambda: queue_of(desk, in_order)["holder"], 20, "a holder")
            assert holder is not None
            assert holder.endswith(f"/{first.pid}")
            with dispatcher(service):
                for n in range(30):
                    desk.publish("ordered", f"{'ab'[n % 2]}{n // 2}", data={"key": "ab"[n % 2]})
                    desk.publish("batched", str(n))
                eventually(lambda: len(ordered.runs) >= 6 and len(batched.runs) >= 2, 20, "some runs")
                first.kill()
                # What the first one had in hand comes to the other seconds later: a queue may be empty before that.
                eventually(lambda: len(ended(ordered)) == len(ended(batched)) == 29, 30, "all but two have ended well")
                eventually(lambda: all(queue_of(desk, each)["depth"] == 0 for each in subscriptions), 30, "the end")
                eventually(lambda: queue_of(desk, in_order)["holder"] not in (None, holder), 30, "another holder")
        runs = [(what, name) for _, what, (name,) in ordered.runs]
        for key in "ab":
            expected = [f"{key}{n}" for n in range(15)]
            if key == "a":
                expected.insert(3, "a3")
            assert [name for what, name in runs if what == "begin" and name[0] == key] == expected
        assert most_at_once(ordered.runs) <= 2
        assert most_at_once(batched.runs) <= 2
        assert sorted(ended(batched)) == sorted(str(n) for n in range(30) if n != 7)
        assert [letter["event_id"] for letter in desk.dead_letters(in_batches)] == ["7"]
        assert [letter["event_id"] for letter in desk.dead_letters(in_order)] == ["a3"]


def ended(notes: Notes) -> list[str]:
    """The events of calls that have ended well."""
    return [name for _, what, names in notes.runs if what == "end" for name in names]


def most_at_once(runs: list[Any]) -> int:
    running = most = 0
    for _, what, _ in runs:
        running += 1 if what == "begin" else -1
        most = max(most, running)
    return most
