"""Arguments and results that are too large for a message, from the Executor to a worker and back."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cut_line import cut_line
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.bus.data.encodings import INLINE_BYTES
from headrace.bus.names import object_chunk
from headrace.bus.store.objects import CHUNK_BYTES, ObjectStore
from headrace.bus.store.tables import Tables
from headrace.sdk import (
    Client,
    Executor,
    ObjectDamaged,
    ObjectMissing,
    SubmissionRefused,
)

MB = 1_000_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), object_bytes=65 * MB) as running:
        yield running


def objects(service: RunningService) -> list[str]:
    """The SHA-256s of what is stored."""

    async def names(connection: Any) -> list[str]:
        return [record.key.split(".")[1] for record in await Tables.on(connection).objects.list()]

    return list(service.bus(names))


def sweep(service: RunningService) -> None:
    async def work(connection: Any) -> None:
        await ObjectStore(connection, Tables.on(connection), grace_s=0.0).sweep()

    service.bus(work)


def uploads(service: RunningService) -> float:
    """How many chunks were ever stored."""

    async def last(connection: Any) -> int:
        return int((await connection.api("STREAM.INFO.OBJECTS"))["state"]["last_seq"])

    return int(service.bus(last))


def test_many_megabytes_go_there_and_back(executor: Executor) -> None:
    content = os.urandom(24 * MB)

    assert executor.submit(lambda x: x[::-1], content).result(50) == content[::-1]


def test_arrays_texts_and_nested_data_go_there_and_back(executor: Executor) -> None:
    array = np.arange(1_000_000).reshape(1000, 1000)[:, ::2]
    nested = {"a": [array, {"b": "é" * (2 * INLINE_BYTES)}], "c": (1, 2)}

    back, named, same = executor.submit(lambda x, *, y: (x, y, x["a"][0] is y), nested, y=array).result(50)

    assert np.array_equal(back["a"][0], array)
    assert back["a"][1] == nested["a"][1]
    assert back["c"] == (1, 2)
    assert np.array_equal(named, array)
    assert not same


def test_many_small_values_that_are_large_together_go_as_well(executor: Executor) -> None:
    values = [os.urandom(100_000) for _ in range(60)]

    assert executor.submit(lambda *xs: list(xs), *values).result(50) == values
    assert executor.submit(sum, list(range(1_000_000))).result(50) == sum(range(1_000_000))


def test_tasks_that_share_an_argument_upload_it_once_and_fetch_it_once(
    executor: Executor, service: RunningService, pool: RunningPool
) -> None:
    shared, before = os.urandom(8 * MB), uploads(service)

    futures = [executor.submit(lambda x, i: (len(x), i), shared, i) for i in range(12)]

    assert [future.result(50) for future in futures] == [(8 * MB, i) for i in range(12)]
    assert uploads(service) - before == 8
    assert all(future.task_id is not None for future in futures)


def test_one_argument_given_twice_is_one_object_for_the_function(executor: Executor) -> None:
    data = bytearray(5 * MB)

    assert executor.submit(lambda x, y: x is y, data, data).result(50)


def test_what_nothing_needs_any_more_goes_and_results_stay(executor: Executor, service: RunningService) -> None:
    sweep(service)
    before = set(objects(service))
    future = executor.submit(lambda x: x + b"!", os.urandom(5 * MB))
    future.result(50)

    def argument_is_gone() -> bool:
        sweep(service)
        return len(set(objects(service)) - before) == 1

    eventually(argument_is_gone, 10, "the argument is removed, and the result is not")
    [again] = executor.reload_tasks()
    assert len(again.result(50)) == 5 * MB + 1


def test_a_large_result_of_another_process_is_read_by_its_group(executor: Executor, client: Client) -> None:
    future = executor.submit(lambda: bytes(5 * MB))
    future.result(50)

    with Executor(executor.endpoint_id, client=client, task_group_id=executor.task_group_id) as other:
        [reloaded] = other.reload_tasks()
        assert reloaded.result(50) == bytes(5 * MB)


def harm(service: RunningService, sha256: str, *, instead: bytes | None) -> None:
    """Take a chunk out of an object, and put another content in its place."""

    async def work(connection: Any) -> None:
        [record] = [r.value for r in await Tables.on(connection).objects.list() if r.key.endswith(sha256)]
        subject = object_chunk(record.upload, record.chunks - 2)
        await connection.api("STREAM.PURGE.OBJECTS", {"filter": subject})
        if instead is not None:
            await connection.store(subject, instead)

    service.bus(work)


@pytest.mark.parametrize(
    ("instead", "error"), [(None, ObjectMissing), (bytes(CHUNK_BYTES), ObjectDamaged), (b"", ObjectDamaged)]
)
def test_a_result_that_is_not_whole_any_more_is_a_clear_error(
    executor: Executor, service: RunningService, instead: bytes | None, error: type[Exception]
) -> None:
    before = set(objects(service))
    executor.submit(os.urandom, 7 * MB).result(50)
    [result] = set(objects(service)) - before

    harm(service, result, instead=instead)

    [again] = executor.reload_tasks()
    with pytest.raises(error, match="object"):
        again.result(50)


@pytest.mark.parametrize(("instead", "error"), [(None, ObjectMissing), (bytes(CHUNK_BYTES), ObjectDamaged)])
def test_an_argument_that_is_not_whole_any_more_is_a_clear_error(
    client: Client, service: RunningService, tmp_path: Path, instead: bytes | None, error: type[Exception]
) -> None:
    with (
        running_pool(service, tmp_path / "pool", started=False, name=error.__name__) as pool,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        before = set(objects(service))
        content = os.urandom(5 * MB)
        future = executor.submit(len, content)
        eventually(lambda: queued(service, pool.endpoint_id) == 1, 20, "the task is stored")
        [argument] = set(objects(service)) - before
        harm(service, argument, instead=instead)

        pool.start()

        with pytest.raises(error, match="object"):
            future.result(50)
        assert executor.submit(len, content).result(50) == 5 * MB, "it is uploaded again"


def queued(service: RunningService, endpoint_id: str) -> int:
    """How many bundles wait for an endpoint."""

    async def count(connection: Any) -> int:
        pattern = f"task.{uuid.UUID(endpoint_id).hex}.>"
        info = await connection.api("STREAM.INFO.TASKS", {"subjects_filter": pattern})
        return len(info["state"].get("subjects") or ())

    return int(service.bus(count))


def test_what_is_larger_than_the_limit_is_refused_with_it(executor: Executor) -> None:
    with pytest.raises(SubmissionRefused, match=str(65 * MB)):
        executor.submit(len, bytes(65 * MB)).result(50)
    with pytest.raises(Exception, match=str(65 * MB)):
        executor.submit(lambda: bytes(65 * MB)).result(50)


def test_a_large_json_result_is_shown_as_a_reference_and_streamed(
    client: Client, service: RunningService, pool: RunningPool
) -> None:
    function_id = service.add_function("def f(n):\n    return ['x' * 1000] * n\n")

    task_id = client.run(5000, endpoint_id=pool.endpoint_id, function_id=function_id)

    document = client.get_task(task_id, wait_s=20)
    assert "result" not in document
    reference = document["result_reference"]
    assert reference["size"] > 5 * MB
    answer = service.http().get(reference["href"])
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == ["x" * 1000] * 5000
    assert client.get_result(task_id) == ["x" * 1000] * 5000
    small = client.run(1, endpoint_id=pool.endpoint_id, function_id=function_id)
    assert client.get_result(small, wait_s=20) == ["x" * 1000]
    assert service.http().get(f"/api/v1/tasks/{small}/result").json() == ["x" * 1000]


def test_somebody_elses_large_result_cannot_be_read(client: Client, service: RunningService, pool: RunningPool) -> None:
    function_id = service.add_function("def f(n):\n    return ['y' * 1000] * n\n")
    task_id = client.run(5000, endpoint_id=pool.endpoint_id, function_id=function_id)
    reference = client.get_task(task_id, wait_s=20)["result_reference"]

    stranger = service.http(service.add_user("stranger"))

    assert stranger.get(reference["href"]).status_code == 404
    assert stranger.get(f"/api/v1/objects/{reference['sha256']}").status_code == 404


def test_an_upload_that_breaks_is_sent_again(service: RunningService, pool: RunningPool) -> None:
    content = os.urandom(6 * MB)
    with (
        cut_line(service.url, after_bytes=3 * MB) as line,
        Client(line.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        assert executor.submit(lambda x: x, content).result(50) == content
        assert line.cuts == 1


def test_a_bus_that_takes_small_messages_only_sends_more_through_the_store(tmp_path: Path) -> None:
    with (
        running_service(tmp_path / "service", max_payload=256 * 1024) as service,
        running_pool(service, tmp_path / "pool") as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        for size in (100_000, 200_000, 3 * MB):
            content = os.urandom(size)
            assert executor.submit(lambda x: [x], content).result(20) == [content]
        assert objects(service)


def test_nothing_is_left_in_the_spool_of_results(pool: RunningPool, executor: Executor) -> None:
    executor.submit(lambda: bytes(5 * MB)).result(50)

    spool = pool.status_path.with_name("pool-default.spool")
    assert list((spool / "results").iterdir()) == []
    assert spool.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (spool / "objects").iterdir())
    assert isinstance(spool, Path)
