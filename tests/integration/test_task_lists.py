"""Lists of tasks: what is on them, in which order, page by page, over HTTP, by the client, on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from gates import WAIT_FOR
from running_pool import RunningPool
from service import RunningService
from waiting import eventually

from headrace.bus.data.json_values import encode_json
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.keys import KeyRing
from headrace.bus.names import Address
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.tables import Tables
from headrace.bus.tasks import listing
from headrace.bus.tasks.bundles import ResultPart, Runtime, TaskOptions, TaskResult, encode_part
from headrace.bus.tasks.listing import Marker, TaskQuery, list_tasks
from headrace.bus.tasks.submission import Call, Submission, Submitted, submit, task_ids
from headrace.sdk import Client

WORKERS = 1

SOURCE = f"""
def echo(x):
    return x

def fail(text):
    raise ValueError(text)

{WAIT_FOR}"""
TIMES = ("submitted_at", "stored_at", "taken_at", "started_at", "ended_at", "result_stored_at")


@pytest.fixture(scope="module")
def keys(service: RunningService) -> KeyRing:
    return ServiceKeys.load(service.keys_dir).key_ring()


@pytest.fixture
def client(service: RunningService) -> Iterator[Client]:
    """A user of its own for each test: lists are not mixed."""
    name = f"u{uuid.uuid4().hex}"
    with Client(service.url, service.add_user(name)) as made:
        yield made


def listed(client: Client, **wanted: Any) -> list[str]:
    return [task["task_id"] for task in client.list_tasks(**wanted)]


def test_a_list_has_what_runs_and_waits_before_what_has_ended_latest_first(
    service: RunningService, pool: RunningPool, client: Client, tmp_path: Path
) -> None:
    service.http().patch(f"/api/v1/endpoints/{pool.endpoint_id}", json={"public": True})
    functions = {name: client.register_source_code(SOURCE, name) for name in ("echo", "fail", "wait_for")}
    first = client.submit(pool.endpoint_id, functions["echo"], ["a value"])
    assert client.get_result(first, wait_s=30) == "a value"
    second = client.submit(pool.endpoint_id, functions["fail"], ["on purpose"])
    client.get_task(second, wait_s=30)
    runs = client.submit(pool.endpoint_id, functions["wait_for"], [str(tmp_path / "go")])
    nobody, _ = service.add_endpoint(f"nobody {uuid.uuid4().hex}", public=True)
    waits = client.submit(nobody, functions["echo"], [2])
    eventually(lambda: listed(client, state="running") == [runs], 10, "the mark of the start is there")

    tasks = list(client.list_tasks())
    assert [(task["task_id"], task["state"]) for task in tasks] == [
        (waits, "pending"),
        (runs, "running"),
        (second, "failed"),
        (first, "succeeded"),
    ]
    assert "result" not in tasks[3]
    assert tasks[2]["error"] == {"code": "TaskFailed", "type": "ValueError", "message": "on purpose"}
    assert {name for name in TIMES if name in tasks[3]} == set(TIMES)
    assert [task["function_id"] for task in tasks] == [functions[n] for n in ("echo", "wait_for", "fail", "echo")]

    assert listed(client, state=("pending", "succeeded")) == [waits, first]
    assert listed(client, function_id=functions["echo"]) == [waits, first]
    assert listed(client, endpoint_id=uuid.uuid4()) == []
    assert listed(client, task_group_id=tasks[1]["task_group_id"]) == [runs]
    assert listed(client, since=datetime.now(UTC)) == []
    assert listed(client, since="1h", page_size=1) == [waits, runs, second, first]
    since = datetime.fromisoformat(tasks[1]["submitted_at"])
    assert listed(client, since=since) == [waits, runs]

    (tmp_path / "go").touch()
    client.get_task(runs, wait_s=30)
    client.cancel(waits)
    assert listed(client, state="pending,running") == []
    assert listed(client) == [waits, runs, second, first]


def test_the_command_line_lists_tasks_by_the_names_of_their_functions(
    service: RunningService, pool: RunningPool, client: Client
) -> None:
    token = service.add_user(name := f"u{uuid.uuid4().hex}")
    service.http().patch(f"/api/v1/endpoints/{pool.endpoint_id}", json={"public": True})
    with Client(service.url, token) as mine:
        function = mine.register_source_code(SOURCE, "fail")
        tasks = []
        for n in range(3):  # one at a time: the order is that in which they end
            tasks.append(mine.submit(pool.endpoint_id, function, [f"{name} {n}"]))
            mine.get_task(tasks[-1], wait_s=30)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headrace.cli.main", "task", "list", *arguments]
        environment = {"HEADRACE_URL": service.url, "HEADRACE_TOKEN": token, "PATH": ""}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=True)

    said = run("--limit", "2")
    assert [line.split()[:3] for line in said.stdout.splitlines()[1:]] == [
        [task, "failed", "fail"] for task in reversed(tasks[1:])
    ]
    assert "the first 2" in said.stderr
    assert [task["task_id"] for task in json.loads(run("--json", "--state", "failed").stdout)] == tasks[::-1]


@pytest.mark.parametrize(
    "query",
    [
        "state=done",
        "limit=0",
        "limit=1001",
        "limit=x",
        "marker=x",
        "since=soon",
        "endpoint_id=1",
        "function_id=",
        "f=1",
    ],
)
def test_what_cannot_be_asked_is_refused_and_named(service: RunningService, query: str) -> None:
    answer = service.http().get(f"/api/v1/tasks?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"?{query.split('=', maxsplit=1)[0]}"


class Stock:
    """Bundles of two principals, some with all results, some with a few, some with none."""

    def __init__(self, service: RunningService, keys: KeyRing) -> None:
        self._service, self._keys = service, keys
        self.ada, self.bob = (f"urn:headrace:user:{name}{uuid.uuid4().hex}" for name in ("ada", "bob"))
        self.endpoints = [uuid.uuid4(), uuid.uuid4()]
        self.waiting: list[UUID] = []
        self.ended: list[UUID] = []

    async def fill(self, connection: Connection) -> None:
        for number in range(36):
            owner = self.bob if number % 3 == 0 else self.ada
            [bundle] = await submit(
                connection,
                self._keys,
                Lanes(connection, self._keys, Tables.on(connection).lanes),
                Submission(
                    principal=owner,
                    endpoint=self.endpoints[number % 2],
                    group=uuid.uuid4(),
                    calls=[Call(function=UUID(int=number % 5), args=["x" * 1000])] * (1 + number % 7),
                ),
            )
            ids, done = task_ids([bundle]), number % (bundle.total + 1)
            for part, index in enumerate(range(done)):
                await self._end(connection, bundle, part, index)
            if owner == self.ada:
                self.ended += ids[:done]
                self.waiting += ids[done:]
            if done == bundle.total:
                await connection.api("STREAM.PURGE.TASKS", {"filter": bundle.address.task_subject})

    async def _end(self, connection: Connection, bundle: Submitted, part: int, index: int) -> None:
        address: Address = bundle.address
        subject, key = address.result_subject(part), self._keys.result_key(address.endpoint, address.principal)
        value = encode_json("y" * 500)
        result = TaskResult(index, "succeeded" if index % 2 else "cancelled", 4, value)
        stored = ResultPart([result], bundle.total, Runtime(python="3", headrace="0"))
        await connection.store(subject, encode_part(stored, subject=subject, key=key))

    def pages(self, query: TaskQuery, limit: int) -> list[list[UUID]]:
        """All pages; the marker goes through its text."""

        async def work(connection: Connection) -> list[list[UUID]]:
            pages, marker = [], None
            while True:
                page = await list_tasks(connection, self._keys, query, limit=limit, marker=marker)
                pages.append([view.task_id for view in page.tasks])
                if page.marker is None:
                    return pages
                marker = Marker.of_text(str(page.marker))

        return list(self._service.bus(work))


@pytest.fixture(scope="module")
def stock(service: RunningService, keys: KeyRing) -> Stock:
    made = Stock(service, keys)
    service.bus(made.fill)
    return made


@pytest.mark.parametrize("limit", [1, 7, 1000])
@pytest.mark.parametrize(
    "bounds",
    [{}, {"_FIRST_STRETCH": 3, "_LONGEST_UNFILTERED": 8}, {"_MOST_SEQUENCES": 20}, {"_READ_BYTES": 3000}],
    ids=["as they are", "long stretches", "short pages", "large messages"],
)
def test_pages_together_hold_every_task_once_whatever_their_size(
    stock: Stock, limit: int, bounds: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bounds.items():
        monkeypatch.setattr(listing, name, value)
    pages = stock.pages(TaskQuery(principal=stock.ada), limit)
    assert all(len(page) <= limit for page in pages)
    assert [task for page in pages for task in page] == stock.waiting[::-1] + stock.ended[::-1]
    by_endpoint = [stock.pages(TaskQuery(principal=stock.ada, endpoint=each), limit) for each in stock.endpoints]
    assert sorted(t for pages in by_endpoint for page in pages for t in page) == sorted(stock.waiting + stock.ended)


def test_a_list_changes_nothing_and_one_that_is_read_slowly_misses_nothing(
    service: RunningService, stock: Stock, keys: KeyRing
) -> None:
    principal = f"urn:headrace:user:{uuid.uuid4().hex}"

    async def work(connection: Connection) -> None:
        before = await connection.api("STREAM.INFO.RESULTS")
        bundles = []
        for _ in range(4):
            # It has waited too long already, which somebody who looks for this one task would see to.
            bundles += await submit(
                connection,
                keys,
                Lanes(connection, keys, Tables.on(connection).lanes),
                Submission(
                    principal=principal,
                    endpoint=uuid.uuid4(),
                    group=uuid.uuid4(),
                    calls=[Call(function=uuid.uuid4())],
                    options=TaskOptions(queue_timeout_s=0.001),
                ),
            )
        query = TaskQuery(principal=principal)
        first = await list_tasks(connection, keys, query, limit=2)
        assert {view.state for view in first.tasks} == {"pending"}
        assert (await connection.api("STREAM.INFO.RESULTS"))["state"] == before["state"]
        # All end between two pages, those that were not seen yet as well.
        for bundle in bundles:
            await stock._end(connection, bundle, 0, 0)
            await connection.api("STREAM.PURGE.TASKS", {"filter": bundle.address.task_subject})
        second = await list_tasks(connection, keys, query, limit=1000, marker=first.marker)
        assert [view.task_id for view in second.tasks] == task_ids(bundles)[::-1]
        assert second.marker is None

    began = time.time()
    service.bus(work)
    assert stock.pages(TaskQuery(principal=principal, since=began + 3600), 10) == [[]]
    assert len(stock.pages(TaskQuery(principal=principal, since=began - 1), 10)[0]) == 4
