"""Clients as people have them: in notebooks, forks and threads, on laptops that sleep, with many executors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from client_process import client_process
from gates import wait_for
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually, eventually_async, let_pass

from headrace.action_provider.api import sessions as sessions_api
from headrace.sdk import Client, Executor, TaskFuture
from headrace.sdk.sessions import sessions_of

_LIFE_S = 2.5


def double(x: Any) -> Any:
    return 2 * x


# In a notebook


class Notebook:
    """An event loop that runs for good, in which cells are run one after the other, as a Jupyter kernel does."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kernel", daemon=True)
        self._thread.start()

    def run(self, cell: Callable[[], Any]) -> Any:
        """Run a cell; one with `await` in it is a coroutine function."""

        async def run_cell() -> Any:
            value = cell()
            return await value if isinstance(value, Awaitable) else value

        return asyncio.run_coroutine_threadsafe(run_cell(), self._loop).result(30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    with contextlib.closing(Notebook()) as made:
        yield made


def test_cells_of_a_notebook_may_wait_for_results_with_and_without_await(
    notebook: Notebook, client: Client, pool: RunningPool
) -> None:
    made: dict[str, Any] = {}

    def first() -> None:
        made["executor"] = Executor(pool.endpoint_id, client=client)
        made["future"] = made["executor"].submit(double, 1)

    async def third() -> Any:
        futures = [made["executor"].submit(double, x) for x in range(5)]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    async def fourth() -> list[int]:
        with Executor(pool.endpoint_id, client=client) as executor:
            return list(executor.map(double, range(3)))

    notebook.run(first)
    assert notebook.run(lambda: made["future"].result(20)) == 2
    assert notebook.run(third) == [0, 2, 4, 6, 8]
    assert notebook.run(fourth) == [0, 2, 4]
    assert notebook.run(made["executor"].shutdown) is None


async def _in_a_loop(client: Client, pool: RunningPool, path: Path) -> list[Any]:
    with Executor(pool.endpoint_id, client=client) as executor:
        waiting = asyncio.wrap_future(executor.submit(wait_for, str(path), f"{path}.held"))

        async def let_go() -> str:
            await eventually_async(Path(f"{path}.held").exists, 10)
            path.touch()  # noqa: ASYNC240 - a test's own file
            return "let go"

        return [*await asyncio.gather(waiting, let_go()), await asyncio.wrap_future(executor.submit(double, 2))]


def test_awaiting_a_future_lets_the_loop_go_on(client: Client, pool: RunningPool, tmp_path: Path) -> None:
    assert asyncio.run(_in_a_loop(client, pool, tmp_path / "go")) == ["done", "let go", 4]


def test_an_awaited_future_that_is_cancelled_cancels_its_task(
    client: Client, service: RunningService, tmp_path: Path
) -> None:
    async def give_up(executor: Executor) -> TaskFuture:
        future = executor.submit(double, 1)
        waiting = asyncio.wrap_future(future)
        await asyncio.sleep(0)  # no time: the callbacks have their turn
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return future

    with running_pool(service, tmp_path, started=False, name="away") as away:
        executor = Executor(away.endpoint_id, client=client)
        future = asyncio.run(give_up(executor))
        executor.shutdown()

        assert future.cancelled()


# After a fork


def in_a_child(work: Callable[[], None]) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(40)
    if child.exitcode is None:
        child.kill()
        child.join()
    return child.exitcode


def test_a_child_may_go_on_with_its_parents_executor_and_so_does_the_parent(
    client: Client, pool: RunningPool, tmp_path: Path
) -> None:
    with Executor(pool.endpoint_id, client=client) as executor:
        assert executor.submit(double, 1).result(20) == 2
        held = executor.submit(wait_for, str(tmp_path / "go"), str(tmp_path / "go.held"))
        eventually((tmp_path / "go.held").exists, 10)

        def child() -> None:
            assert executor.submit(double, 2).result(30) == 4
            executor.shutdown()
            client.close()

        assert in_a_child(child) == 0
        (tmp_path / "go").touch()
        assert held.result(20) == "done"
        assert executor.submit(double, 3).result(20) == 6


def test_a_fork_while_another_thread_holds_the_locks_leaves_a_child_that_works(
    client: Client, pool: RunningPool
) -> None:
    with Executor(pool.endpoint_id, client=client) as executor:
        assert executor.submit(double, 1).result(20) == 2
        locked, forked = threading.Event(), threading.Event()

        def in_the_middle() -> None:
            with executor._lock, client._http._lock:
                locked.set()
                forked.wait(60)

        thread = threading.Thread(target=in_the_middle)
        thread.start()
        locked.wait()
        try:
            code = in_a_child(lambda: None if executor.submit(str, 2).result(30) == "2" else os._exit(3))
        finally:
            forked.set()
            thread.join()

        assert code == 0


# In threads


def test_many_threads_submit_to_one_executor_at_once(client: Client, pool: RunningPool) -> None:
    with Executor(pool.endpoint_id, client=client) as executor, concurrent.futures.ThreadPoolExecutor(16) as threads:
        start = threading.Barrier(16)

        def work(number: int) -> list[TaskFuture]:
            start.wait()
            return [executor.submit(double, number * 1000 + i) for i in range(50)]

        futures = [future for made in threads.map(work, range(16)) for future in made]

        assert len({future.task_id for future in futures}) == 800
        assert [f.result(30) for f in futures] == [2 * (n * 1000 + i) for n in range(16) for i in range(50)]


# Many executors


def open_descriptors() -> Counter[str]:
    kinds: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            kinds[os.readlink(f"/proc/self/fd/{name}").partition(":")[0]] += 1
    return kinds


def consumers(service: RunningService) -> int:
    async def count(connection: Any) -> int:
        streams = (await connection.api("STREAM.LIST"))["streams"]
        return sum(stream["state"]["consumer_count"] for stream in streams)

    return int(service.bus(count))


def held(service: RunningService) -> Counter[str]:
    return open_descriptors() + Counter(threads=threading.active_count(), consumers=consumers(service))


def grown(before: Counter[str], now: Counter[str]) -> Counter[str]:
    return now - before


def test_executors_that_are_made_and_closed_leave_nothing_behind(
    client: Client, pool: RunningPool, service: RunningService
) -> None:
    def use_and_close(number: int) -> None:
        with Executor(pool.endpoint_id, client=client) as executor:
            assert executor.submit(double, number).result(20) == 2 * number

    use_and_close(0)
    session = sessions_of(client).get(UUID(pool.endpoint_id), None)
    subscriptions = session.connection._subscriptions
    eventually(lambda: not session._channels, 10)
    before = held(service)
    subscribed = len(subscriptions)

    for number in range(50):
        use_and_close(number)
    for _ in range(1000):
        Executor(pool.endpoint_id, client=client).shutdown()

    eventually(lambda: not session._channels, 10)
    eventually(lambda: not grown(before, held(service)), 10)
    assert len(subscriptions) == subscribed


def test_an_executor_that_went_through_many_groups_leaves_nothing_behind(client: Client, pool: RunningPool) -> None:
    with Executor(pool.endpoint_id, client=client) as executor:
        for number in range(5):
            executor.task_group_id = uuid4()
            assert executor.submit(double, number).result(20) == 2 * number
        (session, _), *_ = executor._channels.all()
        assert len(session._channels) >= 5

    eventually(lambda: not session._channels, 10)


def test_clients_that_are_made_and_closed_leave_nothing_behind(service: RunningService, pool: RunningPool) -> None:
    def use_and_close(number: int) -> None:
        with (
            Client(service.url, service.token) as client,
            Executor(pool.endpoint_id, client=client) as executor,
        ):
            assert executor.submit(double, number).result(20) == 2 * number

    use_and_close(0)
    before = held(service)

    for number in range(20):
        use_and_close(number)

    eventually(lambda: not grown(before, held(service)), 10)


def test_an_executor_that_is_closed_with_everything_cancelled_gives_its_subscriptions_back(
    client: Client, service: RunningService, tmp_path: Path
) -> None:
    with running_pool(service, tmp_path, started=False, name="far away") as away:
        executor = Executor(away.endpoint_id, client=client)
        futures = [executor.submit(double, x) for x in range(3)]
        session, channel = executor._channel(executor.endpoint_id, None)
        eventually(lambda: len(channel.awaited.bundles) > 0 and not channel._sending, 10)

        executor.shutdown(cancel_futures=True)

        assert all(future.cancelled() for future in futures)
        eventually(lambda: not session._channels and not session.connection._subscriptions, 10)


# Laptops that sleep


@pytest.fixture
def short_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningService]:
    """A service whose credentials, keys and grants live for a second or two."""
    monkeypatch.setattr(sessions_api, "_SLACK_S", 1)
    with running_service(tmp_path / "short", session_ttl_s=_LIFE_S, grant_ttl_s=_LIFE_S + 0.5) as running:
        yield running


def test_a_client_that_slept_until_all_its_credentials_had_expired_gets_every_result(
    short_lives: RunningService, tmp_path: Path
) -> None:
    service = short_lives
    with (
        running_pool(service, tmp_path / "pool") as pool,
        client_process(service, pool.endpoint_id) as client,
    ):
        client.submit("double", 1)
        assert client.results() == [2]
        client.submit("hold", str(tmp_path / "go"))
        eventually((tmp_path / "go.held").exists, 10)
        # Given tasks that were signed, and are not stored.
        service.nats.kill()
        service.loop.run(service.nats.wait())
        for number in range(5):
            client.submit("double", number)
        client.suspend()
        service.loop.run(service.nats.start())
        (tmp_path / "go").touch()

        # Credentials end at whole seconds.
        let_pass(_LIFE_S + 1.0, "all that the client had when it was suspended has expired")
        client.resume()

        client.submit("double", 100)
        assert client.results() == [2, "held", 0, 2, 4, 6, 8, 200]


def test_a_future_waits_on_while_credentials_expire_and_the_service_is_gone(
    short_lives: RunningService, tmp_path: Path
) -> None:
    service = short_lives
    with (
        running_pool(service, tmp_path / "pool") as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        assert executor.submit(double, 1).result(20) == 2
        first = executor.submit(wait_for, str(tmp_path / "go"), str(tmp_path / "go.held"))
        eventually((tmp_path / "go.held").exists, 10)
        session = sessions_of(client).get(executor.endpoint_id, None)
        service.stop_serving()
        eventually(lambda: not session.connection.connected, 10, "the credential has expired")
        (tmp_path / "go").touch()
        later = executor.submit(double, 4)
        service.serve_again()

        assert first.result(30) == "done"
        assert later.result(30) == 8


# Two clients of one group


def test_each_client_of_a_group_gets_each_result_once(
    service: RunningService, client: Client, pool: RunningPool, tmp_path: Path
) -> None:
    with Executor(pool.endpoint_id, client=client) as first:
        tasks = [first.submit(double, x) for x in range(20)]
        tasks.append(first.submit(wait_for, str(tmp_path / "go"), str(tmp_path / "go.held")))
        eventually((tmp_path / "go.held").exists, 10)
        attached, given = [], []
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                other = stack.enter_context(Client(service.url, service.token))
                executor = stack.enter_context(Executor(pool.endpoint_id, client=other))
                counts: Counter[Any] = Counter()
                futures = executor.reload_tasks(first.task_group_id)
                for future in futures:
                    future.add_done_callback(lambda done, counts=counts: counts.update([done.task_id]))  # type: ignore[misc]  # mypy cannot infer a lambda's default
                attached.append(futures)
                given.append(counts)
            (tmp_path / "go").touch()
            for futures in attached:
                concurrent.futures.wait(futures, 20)

        expected = {task.task_id: task.result(20) for task in tasks}
        for futures, counts in zip(attached, given, strict=True):
            assert {future.task_id: future.result(0) for future in futures} == expected
            assert counts == dict.fromkeys(expected, 1)
