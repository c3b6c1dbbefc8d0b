"""What is said of a task at each moment: over HTTP, by the client, by the future; and how it is cancelled."""

from __future__ import annotations

import concurrent.futures
import datetime
import threading
from pathlib import Path
from typing import Any

import pytest
from gates import wait_for
from running_pool import RunningPool
from service import RunningService
from waiting import eventually

from headrace.bus.nats.connection import Connection
from headrace.sdk import Client, Executor, NotFound, TaskCancelled, TaskFuture

WORKERS = 1

TIMES = ("submitted_at", "stored_at", "taken_at", "started_at", "ended_at", "result_stored_at")


def task(client: Client, future: TaskFuture, wait_s: float | None = None) -> dict[str, Any]:
    assert future.task_id is not None
    return client.get_task(future.task_id, wait_s=wait_s)


def state(client: Client, future: TaskFuture) -> str:
    try:
        return str(task(client, future)["state"])
    except NotFound:
        return "unsent"


def moments(document: dict[str, Any]) -> list[datetime.datetime]:
    return [datetime.datetime.fromisoformat(document[name]) for name in TIMES if name in document]


def leave_a_trace(path: str) -> None:
    from pathlib import Path

    Path(path).touch()


# States and times


def test_a_task_is_pending_then_running_then_done_with_the_time_of_each(
    service: RunningService, client: Client, late: RunningPool, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with Executor(late.endpoint_id, client=client) as executor:
        future = executor.submit(wait_for, str(gate))
        eventually(lambda: state(client, future) == "pending", message="the task is stored")
        pending = task(client, future)
        assert {name for name in TIMES if name in pending} == {"submitted_at", "stored_at"}

        late.start()
        eventually(lambda: state(client, future) == "running", message="the task is seen to run")
        running = task(client, future)
        assert {name for name in TIMES if name in running} == {"submitted_at", "stored_at", "started_at"}
        group = service.http().get(f"/api/v1/task-groups/{executor.task_group_id}").json()
        assert [each["state"] for each in group["tasks"]] == ["running"]

        gate.touch()
        assert future.result(60) == "done"
        done = task(client, future)
        assert done["state"] == "succeeded"
        assert len(moments(done)) == len(TIMES)
        assert moments(done) == sorted(moments(done))
        assert done["stored_at"] == pending["stored_at"]
        assert "/" in done["worker"]


def test_a_long_poll_that_ends_early_says_that_the_task_runs(
    client: Client, executor: Executor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    future = executor.submit(wait_for, str(gate))
    eventually(lambda: state(client, future) in ("pending", "running"))

    eventually(lambda: task(client, future, wait_s=1.0)["state"] == "running", message="it is said to run")

    gate.touch()
    assert task(client, future, wait_s=30)["state"] == "succeeded"


def test_a_future_has_the_same_times_as_the_service(client: Client, executor: Executor) -> None:
    future = executor.submit(len, "abc")
    assert future.result(60) == 3

    times = future.times
    assert times is not None
    assert [getattr(times, name) for name in TIMES] == pytest.approx(
        [moment.timestamp() for moment in moments(task(client, future))], abs=0.001
    )
    assert times.delivered_at >= times.result_stored_at


# Cancelling


def test_what_is_cancelled_while_its_endpoint_is_away_is_cancelled_for_everybody_at_once(
    service: RunningService, client: Client, late: RunningPool, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    with Executor(late.endpoint_id, client=client) as executor:
        cancelled = executor.submit(leave_a_trace, str(trace))
        other = executor.submit(len, "abc")
        eventually(lambda: state(client, other) == "pending")
        second = Executor(late.endpoint_id, client=client)
        (seen,) = [f for f in second.reload_tasks(executor.task_group_id) if f.task_id == cancelled.task_id]

        assert client.cancel(cancelled.task_id or "")["state"] == "cancelled"

        assert isinstance(seen.exception(20), TaskCancelled)
        assert isinstance(cancelled.exception(20), TaskCancelled)
        document = task(client, cancelled)
        assert document["state"] == "cancelled"
        assert document["attempts"] == 0
        assert document["error"]["code"] == "TaskCancelled"
        late.start()
        assert other.result(20) == 3
        second.shutdown()
        assert state(client, cancelled) == "cancelled"
        assert not trace.exists()
        eventually(lambda: _queued(service) == 0, message="nothing is left in the queue")


def test_a_bundle_whose_tasks_are_all_cancelled_leaves_the_queue_without_its_endpoint(
    service: RunningService, client: Client, late: RunningPool
) -> None:
    executor = Executor(late.endpoint_id, client=client)
    futures = [executor.submit(len, "x") for _ in range(30)]
    eventually(lambda: all(state(client, future) == "pending" for future in futures))

    executor.shutdown(cancel_futures=True)

    assert all(future.cancelled() for future in futures)
    assert {state(client, future) for future in futures} == {"cancelled"}
    eventually(lambda: _queued(service) == 0, message="nothing is left in the queue")


def test_a_future_that_is_cancelled_in_any_moment_agrees_with_the_service(
    client: Client, executor: Executor, tmp_path: Path
) -> None:
    gate, busy = tmp_path / "gate", tmp_path / "busy"
    first = executor.submit(wait_for, str(gate), str(busy))
    eventually(busy.exists, 10)
    traces = [tmp_path / f"trace {number}" for number in range(40)]
    futures = [executor.submit(leave_a_trace, str(trace)) for trace in traces]

    assert all(future.cancel() for future in futures)

    # What is on its way to the bus is known to nobody yet, and is cancelled once it is there.
    eventually(lambda: all(channel.cancellations.untold == 0 for _, channel in executor._channels.all()), 20)
    assert {state(client, future) for future in futures} <= {"cancelled", "unsent"}
    gate.touch()
    assert first.result(60) == "done"
    assert executor.submit(len, "ab").result(60) == 2
    assert not any(trace.exists() for trace in traces)


def test_a_cancelled_task_that_waits_in_the_pool_is_cancelled_within_milliseconds(
    client: Client, executor: Executor, tmp_path: Path
) -> None:
    gate, busy = tmp_path / "gate", tmp_path / "busy"
    first = executor.submit(wait_for, str(gate), str(busy))
    eventually(busy.exists, 10)
    waiting = executor.submit(len, "x")
    eventually(lambda: state(client, waiting) == "pending")

    answers = client.cancel(waiting.task_id or "")

    assert answers["state"] == "cancelled"
    gate.touch()
    assert first.result(60) == "done"


def test_without_force_a_running_task_goes_on_and_with_force_it_is_stopped(
    client: Client, executor: Executor, tmp_path: Path
) -> None:
    future = executor.submit(wait_for, str(tmp_path / "never"))
    eventually(lambda: state(client, future) == "running")
    eventually(future.running, message="the future has heard of it as well")
    assert future.task_id is not None

    assert not future.cancel()
    assert client.cancel(future.task_id)["state"] == "running"
    assert task(client, future, wait_s=0.3)["state"] == "running"
    assert future.cancel(force=True)

    assert isinstance(future.exception(20), TaskCancelled)
    ended = task(client, future, wait_s=5)
    assert ended["state"] == "cancelled"
    assert executor.submit(len, "ab").result(60) == 2
    # Final: nothing that is asked later changes it.
    assert client.cancel(future.task_id, force=True) == ended
    assert ended["taken_at"] <= ended["started_at"] <= ended["ended_at"]


def test_what_ran_when_its_endpoint_was_lost_can_be_cancelled_and_does_not_run_again(
    client: Client, late: RunningPool, tmp_path: Path
) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    late.start()
    with Executor(late.endpoint_id, client=client) as executor:
        future = executor.submit(wait_for, str(gate), str(runs))
        eventually(lambda: state(client, future) == "running" and runs.exists(), 10)
        late.kill()
        runs.unlink()

        eventually(lambda: client.cancel(future.task_id or "")["state"] == "cancelled", message="it is cancelled")

        assert isinstance(future.exception(20), TaskCancelled)
        late.start()
        assert executor.submit(len, "ab").result(20) == 2
        assert not runs.exists()


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.02, 0.03])
def test_one_of_many_who_cancel_while_the_task_ends_decides_for_all(
    client: Client, executor: Executor, tmp_path: Path, delay_s: float
) -> None:
    gate = tmp_path / "gate"
    future = executor.submit(wait_for, str(gate))
    eventually(lambda: state(client, future) != "unsent")
    opener = threading.Timer(delay_s, gate.touch)
    opener.start()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: client.cancel(future.task_id or "", force=True), range(4)))
    opener.join()

    final = task(client, future, wait_s=30)

    error = future.exception(20)
    assert final["state"] == ("cancelled" if isinstance(error, TaskCancelled) else "succeeded")
    assert task(client, future) == final


def test_a_cancel_is_visible_to_all_as_soon_as_it_is_answered(
    service: RunningService, client: Client, late: RunningPool
) -> None:
    with Executor(late.endpoint_id, client=client) as executor:
        futures = [executor.submit(len, "x") for _ in range(10)]
        eventually(lambda: all(state(client, future) == "pending" for future in futures))
        for future in futures:
            assert client.cancel(future.task_id or "")["state"] == "cancelled"
            assert service.http().get(f"/api/v1/tasks/{future.task_id}").json()["state"] == "cancelled"

        assert all(isinstance(future.exception(20), TaskCancelled) for future in futures)


def _queued(service: RunningService) -> int:
    async def count(connection: Connection) -> int:
        return int((await connection.api("STREAM.INFO.TASKS"))["state"]["messages"])

    return int(service.bus(count))
