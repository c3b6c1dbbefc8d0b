"""The Executor against a real service, bus and pool."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from running_pool import RunningPool, running_pool
from service import RunningService
from waiting import eventually

from headrace.bus.names import Address
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks import bundles
from headrace.sdk import (
    ArgumentNotSerialisable,
    Client,
    Executor,
    NotFound,
    RequestRefused,
    ResultNotSerialisable,
    TaskFailed,
    TaskFuture,
    TaskLost,
)


def double(x: Any) -> Any:
    return x * 2


def slow(seconds: float) -> str:
    import time

    time.sleep(seconds)  # the function under test is a slow one
    return "done"


def test_a_function_runs_on_the_endpoint_and_the_task_has_its_id_at_once(executor: Executor) -> None:
    future = executor.submit(os.getpid)

    assert isinstance(future.task_id, uuid.UUID)
    assert future.result(20) != os.getpid()
    assert future.times is not None
    times = future.times
    assert 0 < times.taken_at <= times.started_at <= times.ended_at <= times.delivered_at
    assert 0 < times.submitted_at <= times.stored_at <= times.result_stored_at <= times.delivered_at


def test_closures_lambdas_and_functions_made_at_run_time_travel(executor: Executor) -> None:
    factor = 3
    made: dict[str, Any] = {}
    exec("def made_here(x):\n    return x + 1\n", made)  # noqa: S102 - what a notebook does

    assert executor.submit(lambda x: x * factor, 2).result(20) == 6
    assert executor.submit(made["made_here"], 1).result(20) == 2
    assert executor.submit(double, x="ab").result(20) == "abab"


@pytest.mark.parametrize(
    "value", [(1, (2, [3])), {1: "a", (2, 3): {4}}, 2**80, b"\x00", None, True, 1.5, {"k": (1,)}, complex(1, 2)]
)
def test_values_come_back_as_what_they_were(executor: Executor, value: Any) -> None:
    result = executor.submit(lambda x: x, value).result(20)

    assert result == value
    assert type(result) is type(value)


def test_a_call_goes_where_the_executor_points_at_that_moment(executor: Executor) -> None:
    before, group = executor.submit(double, 1), uuid.uuid4()
    executor.task_group_id = group
    after = executor.submit(double, 2)
    executor.endpoint_id = uuid.uuid4()
    nowhere = executor.submit(double, 3)

    assert (before.result(20), after.result(20)) == (2, 4)
    assert after.task_group_id == group != before.task_group_id
    with pytest.raises(NotFound):
        nowhere.result(20)


def test_map_gives_results_in_order_with_and_without_chunks(executor: Executor) -> None:
    assert list(executor.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(executor.map(double, range(25), chunksize=7)) == [2 * i for i in range(25)]
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(double, [1], chunksize=0)


def test_map_keeps_its_time_limit(executor: Executor) -> None:
    with pytest.raises(TimeoutError):
        list(executor.map(slow, [1], timeout=0.2))


def test_futures_work_with_wait_as_completed_and_asyncio(executor: Executor) -> None:
    futures = [executor.submit(double, i) for i in range(20)]

    assert {f.result() for f in concurrent.futures.as_completed(futures, timeout=20)} == {2 * i for i in range(20)}
    assert not concurrent.futures.wait(futures, timeout=20).not_done

    async def awaited() -> Any:
        return await asyncio.wrap_future(executor.submit(double, 21))

    assert asyncio.run(awaited()) == 42


def test_a_remote_exception_is_raised_as_its_own_type_with_the_remote_traceback(executor: Executor) -> None:
    def divide(x: int) -> float:
        return x / 0

    with pytest.raises(ZeroDivisionError) as caught:
        executor.submit(divide, 1).result(20)

    assert any("return x / 0" in note for note in caught.value.__notes__)
    assert "divide" in str(caught.value.__cause__)


def test_an_exception_whose_type_is_not_here_is_told_in_full(executor: Executor) -> None:
    source = "class Odd(Exception):\n    pass\n\ndef f():\n    raise Odd('strange')\n"
    function_id = executor.register_source_code(source, function_name="f")

    with pytest.raises(TaskFailed) as caught:
        executor.submit_to_registered_function(function_id).result(20)

    assert caught.value.type_name.endswith("Odd")
    assert caught.value.remote_message == "strange"
    assert "raise Odd('strange')" in caught.value.remote_traceback


def test_an_argument_that_cannot_be_sent_fails_its_future_at_once_and_the_executor_lives_on(executor: Executor) -> None:
    future = executor.submit(double, (i for i in range(3)))

    with pytest.raises(ArgumentNotSerialisable, match="generator"):
        future.result(0)
    assert executor.submit(double, 1).result(20) == 2


def test_a_result_that_cannot_be_sent_is_an_error_of_its_task(executor: Executor) -> None:
    with pytest.raises(ResultNotSerialisable, match="generator"):
        executor.submit(lambda: (i for i in range(3))).result(20)


def test_a_result_that_cannot_be_read_here_is_an_error_of_its_task(executor: Executor) -> None:
    def what_nobody_can_unpickle() -> Any:
        class Odd:
            def __reduce__(self) -> Any:
                return int, ("no number",)

        return Odd()

    with pytest.raises(ResultNotSerialisable, match=r"cannot be read here.*no number"):
        executor.submit(what_nobody_can_unpickle).result(20)


def test_an_unknown_function_fails_its_future_and_the_executor_lives_on(executor: Executor) -> None:
    unknown = uuid.uuid4()

    with pytest.raises(NotFound, match=str(unknown)):
        executor.submit_to_registered_function(str(unknown)).result(20)
    assert executor.submit(double, 1).result(20) == 2


def test_an_unknown_endpoint_fails_the_future(client: Client) -> None:
    unknown = uuid.uuid4()
    with Executor(unknown, client=client) as executor, pytest.raises(NotFound, match=str(unknown)):
        executor.submit(double, 1).result(20)


def test_without_an_endpoint_the_only_accessible_one_is_used_and_none_or_two_are_named(service: RunningService) -> None:
    token = service.add_user("solo")
    with Client(service.url, token) as client:
        with Executor(client=client) as executor, pytest.raises(RequestRefused, match="endpoint"):
            executor.submit(double, 4).result(20)
        first = client.register_endpoint("first")["endpoint_id"]
        with Executor(client=client) as executor:
            future = executor.submit(double, 4)
            assert str(future.endpoint_id) == first
            assert future.cancel()
        second = client.register_endpoint("second")["endpoint_id"]
        with Executor(client=client) as executor, pytest.raises(RequestRefused) as caught:
            executor.submit(double, 4).result(20)
        assert first in str(caught.value)
        assert second in str(caught.value)


@pytest.mark.parametrize("endpoint_id", ["not-a-uuid", "", 5])
def test_an_endpoint_id_that_is_no_uuid_is_refused_by_name(client: Client, endpoint_id: Any) -> None:
    with pytest.raises(ValueError, match="endpoint_id must be a UUID"):
        Executor(endpoint_id, client=client)


def test_registered_functions_are_called_in_every_documented_form(executor: Executor) -> None:
    def show(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    fid = executor.register_function(show)
    call = executor.submit_to_registered_function

    assert executor.register_function(show) == fid
    assert call(fid, [1, 2]).result(20) == (([1, 2],), {})
    assert call(fid, (1, 2)).result(20) == ((1, 2), {})
    assert call(fid, (1,), {"k": 2}).result(20) == ((1,), {"k": 2})
    assert call(fid, args=(1, 2), kwargs={"k": 3}).result(20) == ((1, 2), {"k": 3})
    assert call(fid, args=[1]).result(20) == ((1,), {})
    assert call(fid, 1, 2).result(20) == ((1, 2), {})
    assert call(fid).result(20) == ((), {})
    with pytest.raises(TypeError, match="not both"):
        call(fid, 1, args=(2,))
    with pytest.raises(TypeError, match="args must be a tuple"):
        call(fid, args=5)


def test_what_cannot_be_called_is_refused_at_once(executor: Executor) -> None:
    not_a_function: Any = ...
    with pytest.raises(TypeError, match="function to call"):
        executor.submit(not_a_function)


def test_a_future_says_that_its_task_runs(executor: Executor) -> None:
    future = executor.submit(slow, 1.0)

    eventually(future.running, within_s=10)

    assert not future.cancel()
    assert future.result(20) == "done"


def test_a_task_that_waits_can_be_cancelled_wherever_it_is(executor: Executor, tmp_path: Path) -> None:
    def leave_a_trace(path: str) -> None:
        from pathlib import Path

        Path(path).touch()

    busy = [executor.submit(slow, 1.0) for _ in range(4)]
    waiting = executor.submit(leave_a_trace, str(tmp_path / "trace"))
    eventually(lambda: any(future.running() for future in busy), within_s=10)

    assert waiting.cancel()

    assert waiting.cancelled()
    assert {future.result(20) for future in busy} == {"done"}
    assert executor.submit(double, 1).result(20) == 2
    assert not (tmp_path / "trace").exists()


def test_a_running_task_is_stopped_by_force(executor: Executor) -> None:
    future = executor.submit(slow, 60.0)
    eventually(future.running, within_s=10)

    assert future.cancel(force=True)

    assert isinstance(future.exception(20), Exception)
    assert executor.submit(double, 1).result(20) == 2


def test_a_worker_that_dies_affects_only_its_own_task(executor: Executor) -> None:
    def die() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    dying = executor.submit(die)
    others = [executor.submit(double, i) for i in range(50)]

    assert [future.result(30) for future in others] == [2 * i for i in range(50)]
    with pytest.raises(TaskLost, match="SIGKILL"):
        dying.result(30)


def test_many_threads_and_executors_share_a_process(client: Client, pool: RunningPool) -> None:
    def work(number: int) -> list[int]:
        with Executor(pool.endpoint_id, client=client) as executor:
            return [executor.submit(double, number * 100 + i).result(30) for i in range(5)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        results = list(threads.map(work, range(16)))

    assert results == [[2 * (n * 100 + i) for i in range(5)] for n in range(16)]
    assert sum(thread.name == "headrace" for thread in threading.enumerate()) == 1


def test_tasks_are_reloaded_by_group_from_another_client(
    service: RunningService, client: Client, pool: RunningPool
) -> None:
    with Executor(pool.endpoint_id, client=client) as first:
        done = [first.submit(double, i) for i in range(10)]
        assert [future.result(20) for future in done] == [2 * i for i in range(10)]
        waiting = first.submit(slow, 1.0)
        eventually(waiting.running, within_s=10)
        with Client(service.url, service.token) as other, Executor(pool.endpoint_id, client=other) as second:
            reloaded = second.reload_tasks(first.task_group_id)
            by_id: dict[Any, TaskFuture] = {future.task_id: future for future in reloaded}
            eventually(lambda: all(future.done() for future in reloaded), within_s=20)
    assert len(reloaded) == 11
    assert {by_id[future.task_id].result() for future in done} == {2 * i for i in range(10)}
    assert by_id[waiting.task_id].result() == "done"


def test_an_executor_keeps_its_group_when_the_one_to_reload_is_unknown(client: Client, pool: RunningPool) -> None:
    with Executor(pool.endpoint_id, client=client) as executor:
        group = executor.task_group_id

        with pytest.raises(NotFound, match="no task group"):
            executor.reload_tasks(uuid.uuid4())

        assert executor.task_group_id == group


def test_executors_of_one_client_that_share_a_group_all_get_its_results(
    client: Client, pool: RunningPool, tmp_path: Path
) -> None:
    with Executor(pool.endpoint_id, client=client) as first:
        done = first.submit(double, 1)
        assert done.result(20) == 2
        future = first.submit(slow, 1.0)
        eventually(future.running, within_s=10)
        others = [Executor(pool.endpoint_id, client=client) for _ in range(3)]
        reloaded = [other.reload_tasks(first.task_group_id) for other in others]

        assert future.result(20) == "done"
        for futures in reloaded:
            assert {each.result(20) for each in futures} == {2, "done"}
        for other in others:
            other.shutdown()


def test_after_shutdown_nothing_is_taken_and_what_was_is_finished(client: Client, pool: RunningPool) -> None:
    executor = Executor(pool.endpoint_id, client=client)
    futures = [executor.submit(double, i) for i in range(10)]
    executor.shutdown()
    executor.shutdown()

    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(double, 1)


def test_shutdown_can_cancel_what_waits(client: Client, pool: RunningPool) -> None:
    executor = Executor(pool.endpoint_id, client=client)
    futures = [executor.submit(slow, 0.5) for _ in range(30)]

    executor.shutdown(cancel_futures=True)

    assert any(future.cancelled() for future in futures)
    assert all(future.done() for future in futures)


def test_a_child_after_a_fork_has_executors_of_its_own(
    client: Client, pool: RunningPool, service: RunningService
) -> None:
    with Executor(pool.endpoint_id, client=client) as executor:
        assert executor.submit(double, 1).result(20) == 2
    child = multiprocessing.get_context("fork").Process(
        target=_in_a_child, args=(service.url, service.token, pool.endpoint_id)
    )
    child.start()
    child.join(40)
    assert child.exitcode == 0


def _in_a_child(url: str, secret: str, endpoint_id: str) -> None:
    with Client(url, secret) as client, Executor(endpoint_id, client=client) as executor:
        assert executor.submit(double, 2).result(30) == 4


def test_tasks_wait_for_a_pool_that_is_not_there_and_survive_its_death(service: RunningService, tmp_path: Path) -> None:
    with (
        running_pool(service, tmp_path, started=False, name="later") as late,
        Client(service.url, service.token) as client,
        Executor(late.endpoint_id, client=client) as executor,
    ):
        futures = [executor.submit(double, i) for i in range(20)]
        held = executor.submit(slow, 2.0)
        late.start()
        eventually(held.running, within_s=20)
        late.kill()
        late.start()

        assert [future.result(30) for future in futures] == [2 * i for i in range(20)]
        assert held.result(30) == "done"


def test_a_result_that_its_endpoint_did_not_sign_is_not_believed(executor: Executor, service: RunningService) -> None:
    future = executor.submit(slow, 1.5)
    eventually(future.running, within_s=10)
    assert future.task_id is not None
    address = Address(
        endpoint=future.endpoint_id or uuid.UUID(int=0),
        pool="default",
        principal="urn:headrace:user:admin",
        group=executor.task_group_id,
        bundle=future.task_id,
    )
    forged = bundles.encode_part(
        bundles.ResultPart(
            results=[bundles.TaskResult(0, "succeeded", 1, b"\xa6forged")],
            total=1,
            runtime=bundles.Runtime(python="", headrace=""),
        ),
        subject=address.result_subject(0),
        key=b"not the key, but as long as one ",
    )

    async def store(connection: Connection) -> None:
        await connection.store(address.result_subject(0), forged)

    service.bus(store)

    assert future.result(20) == "done"
