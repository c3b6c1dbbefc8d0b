"""A client holds so much and no more: it waits, or is told; a slow one loses nothing."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.sdk import Client, Executor, QueueFull, SubmissionRefused
from headrace.sdk.loop import loop_thread


def double(x: Any) -> Any:
    return x * 2


class Blocked:
    """A thread that submits, and is blocked; what became of it."""

    def __init__(self, executor: Executor, submit: Callable[[], Any]) -> None:
        self.outcome: Any = None
        self._submit = submit
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        room = executor._unfinished._room
        assert room is not None
        eventually(lambda: room._waiting == 1, message="the submission is blocked")

    def _run(self) -> None:
        try:
            self.outcome = self._submit()
        except BaseException as error:
            self.outcome = error

    def end(self) -> Any:
        """What it got, or what it raised."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.outcome


def test_unfinished_tasks_are_limited_if_the_caller_wants_that(client: Client, away: str) -> None:
    executor = Executor(away, client=client, max_unfinished=5, when_full="raise")
    futures = [executor.submit(double, i) for i in range(5)]

    with pytest.raises(QueueFull, match="5 tasks of this executor are unfinished"):
        executor.submit(double, 5)
    with pytest.raises(QueueFull, match=r"0\.01 s"):
        executor.with_options(when_full="block", full_timeout_s=0.01).submit(double, 5)
    assert futures[0].cancel()
    futures.append(executor.submit(double, 5))

    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_a_blocked_submission_goes_on_when_a_task_has_ended(client: Client, away: str) -> None:
    executor = Executor(away, client=client, max_unfinished=1)
    first = executor.submit(double, 1)
    blocked = Blocked(executor, lambda: executor.submit(double, 2))

    first.cancel()

    assert blocked.end().task_id is not None
    executor.shutdown(cancel_futures=True)


def test_a_blocked_submission_ends_with_the_executor(client: Client, away: str) -> None:
    executor = Executor(away, client=client, max_unfinished=1)
    executor.submit(double, 1)
    blocked = Blocked(executor, lambda: executor.submit(double, 2))

    executor.shutdown(wait=False)

    assert "after shutdown" in str(blocked.end())
    executor.shutdown(cancel_futures=True)


def test_more_tasks_than_are_allowed_at_once_all_run(client: Client, pool: RunningPool) -> None:
    with Executor(pool.endpoint_id, client=client, max_unfinished=7) as executor:
        futures = [executor.submit(double, i) for i in range(300)]
        assert [future.result(20) for future in futures] == [2 * i for i in range(300)]


def test_a_callback_may_submit_though_there_is_no_room(client: Client, pool: RunningPool) -> None:
    made: list[Any] = []
    done = threading.Event()
    with Executor(pool.endpoint_id, client=client, max_unfinished=1) as executor:

        def again(_: Any) -> None:
            made.extend([executor.submit(double, 10), executor.submit(double, 20)])
            done.set()

        executor.submit(double, 1).add_done_callback(again)
        assert done.wait(20)
        assert [future.result(20) for future in made] == [20, 40]


def test_a_submission_in_a_coroutine_blocks_only_its_thread(client: Client, pool: RunningPool) -> None:
    async def work(executor: Executor) -> list[Any]:
        here = [executor.submit(double, i) for i in range(20)]
        there = await asyncio.gather(*(asyncio.to_thread(executor.submit, double, i) for i in range(20, 40)))
        return await asyncio.gather(*(asyncio.wrap_future(future) for future in [*here, *there]))

    with Executor(pool.endpoint_id, client=client, max_unfinished=2) as executor:
        assert asyncio.run(work(executor)) == [2 * i for i in range(40)]


def test_map_over_an_endless_iterable_keeps_a_window(client: Client, pool: RunningPool) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    with Executor(pool.endpoint_id, client=client) as executor:
        results = executor.map(double, numbers(), buffersize=4)
        assert len(taken) == 4
        assert [next(results) for _ in range(10)] == [2 * i for i in range(10)]
        assert len(taken) == 14
        chunked = executor.map(double, numbers(), chunksize=3, buffersize=2)
        assert [next(chunked) for _ in range(6)] == [2 * i for i in range(14, 20)] or len(taken) > 14
        del results, chunked
        with pytest.raises(ValueError, match="buffersize"):
            executor.map(double, [1], buffersize=0)


def test_a_map_that_finds_no_room_cancels_what_it_has_submitted(client: Client, away: str) -> None:
    executor = Executor(away, client=client, max_unfinished=3, when_full="raise")

    with pytest.raises(QueueFull):
        executor.map(double, range(10))

    assert len(executor._unfinished) == 0
    executor.shutdown()


def test_what_the_bus_does_not_take_is_bounded_in_bytes_and_sent_when_it_is_back(tmp_path: Path) -> None:
    with (
        running_service(tmp_path / "service") as service,
        running_pool(service, tmp_path / "pool") as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        assert executor.submit(len, b"").result(20) == 0
        service.nats.kill()
        service.loop.run(service.nats.wait())
        patient, argument, futures = executor.with_options(full_timeout_s=0.01), b"x" * 700_000, []

        def submit_all() -> None:
            for _ in range(500):
                futures.append(patient.submit(len, argument))

        with pytest.raises(QueueFull, match=r"MB\) for endpoint .* wait to be stored"):
            submit_all()
        assert len(futures) in range(80, 110)  # 64 MB, and no more

        service.loop.run(service.nats.start())

        assert {future.result(40) for future in futures} == {700_000}


def test_a_client_that_is_closed_refuses_what_comes_after_and_what_waits(service: RunningService, away: str) -> None:
    client = Client(service.url, service.token)
    executor = Executor(away, client=client)
    before = executor.submit(double, 1)

    client.close()
    after = executor.submit(double, 2)

    for future in (before, after):
        with pytest.raises(SubmissionRefused, match="closed"):
            future.result(20)


def test_a_client_that_is_slow_loses_no_result(service: RunningService, client: Client, tmp_path: Path) -> None:
    """More results than the server keeps for a connection (64 MB) come while the client does not read."""
    reading = threading.Event()
    with (
        running_pool(service, tmp_path, started=False, name="later") as late,
        Executor(late.endpoint_id, client=client) as executor,
    ):
        futures = [executor.submit(lambda i: bytes([i]) * 900_000, i) for i in range(90)]
        eventually(lambda: len(_states(service, executor)) == 90, within_s=20, message="all of them are stored")
        loop_thread().call(lambda: reading.wait(40))
        late.start()
        eventually(lambda: _states(service, executor) == ["succeeded"] * 90, within_s=30)

        reading.set()

        assert [future.result(40)[:1] for future in futures] == [bytes([i]) for i in range(90)]


def _states(service: RunningService, executor: Executor) -> list[str]:
    answer = service.http().get(f"/api/v1/task-groups/{executor.task_group_id}")
    return [task["state"] for task in answer.json().get("tasks", ())]


def test_ctrl_c_ends_a_blocked_submission(service: RunningService, away: str) -> None:
    script = (
        "import sys\nfrom headrace.sdk import Client, Executor\n"
        "executor = Executor(sys.argv[3], client=Client(sys.argv[1], sys.argv[2]), max_unfinished=1)\n"
        "executor.submit(len, 'a')\n"
        "try:\n    print('blocked', flush=True)\n    executor.submit(len, 'b')\nexcept KeyboardInterrupt:\n"
        "    executor.shutdown(cancel_futures=True)\n    print('interrupted', executor.task_count_submitted)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, service.url, service.token, away], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "blocked\n"
        # It is about to block, or blocked: the signal ends it in both cases.
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=30)[0] == "interrupted 1\n"
    finally:
        child.kill()
        child.communicate()  # and its pipe is closed


def test_the_limit_of_an_endpoints_queue_raises_or_blocks_until_there_is_room(
    service: RunningService, client: Client, tmp_path: Path
) -> None:
    with running_pool(service, tmp_path, started=False, name="limited") as late:
        path = f"/api/v1/endpoints/{late.endpoint_id}"
        assert service.http().patch(path, json={"queue_limits": {"bundles_per_principal": 3}}).is_success
        executor = Executor(late.endpoint_id, client=client, batch_size=1)
        told = executor.with_options(when_full="raise")
        futures = [told.submit(double, i) for i in range(3)]

        with pytest.raises(QueueFull, match="3 for you"):
            told.submit(double, 3)
        with pytest.raises(QueueFull):
            executor.with_options(full_timeout_s=0.01).submit(double, 3)
        function_id = executor.register_function(double)
        eventually(lambda: _states(service, executor) == ["pending"] * 3, within_s=20)
        eventually(lambda: client.get_endpoint_queue(late.endpoint_id)["own"]["room"] == 0)
        with pytest.raises(QueueFull) as caught:
            client.submit(late.endpoint_id, function_id, [1])
        assert caught.value.limit == 3
        late.start()
        futures += [executor.submit(double, i) for i in range(3, 30)]

        assert [future.result(20) for future in futures] == [2 * i for i in range(30)]
        executor.shutdown()
