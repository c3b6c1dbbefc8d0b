"""Cancelling many tasks with one request: each ends as if it had been cancelled by itself."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gates import wait_for
from running_pool import RunningPool
from service import RunningService
from waiting import eventually

from headrace.bus.nats.connection import Connection
from headrace.sdk import Client, Executor, NotFound, TaskCancelled
from headrace.sdk.cancelling import Cancellations
from headrace.sdk.errors import RequestRefused, ServiceUnavailable

WORKERS = 1


def double(x: Any) -> Any:
    return x * 2


def states(client: Client, executor: Executor) -> Counter[str]:
    """How many tasks of an executor's group are in which state, for everybody."""
    try:
        return Counter(task["state"] for task in client.get_task_group(executor.task_group_id)["tasks"])
    except NotFound:
        return Counter()


def queued_bundles(service: RunningService) -> int:
    async def count(connection: Connection) -> int:
        return int((await connection.api("STREAM.INFO.TASKS"))["state"]["messages"])

    return int(service.bus(count))


def test_a_shutdown_cancels_thousands_of_tasks_for_everybody_and_leaves_nothing_queued(
    service: RunningService, client: Client, away: str
) -> None:
    executor = Executor(away, client=client)
    futures = [executor.submit(double, i) for i in range(2_500)]
    eventually(lambda: states(client, executor)["pending"] > 1_000, within_s=20)

    executor.shutdown(cancel_futures=True)

    assert all(future.cancelled() for future in futures)
    assert set(states(client, executor)) == {"cancelled"}
    eventually(lambda: queued_bundles(service) == 0, message="nothing is queued")


def test_a_whole_group_is_cancelled_with_one_call_and_its_futures_hear_of_it(client: Client, away: str) -> None:
    with Executor(away, client=client) as executor:
        futures = [executor.submit(double, i) for i in range(300)]
        eventually(lambda: states(client, executor)["pending"] == 300, within_s=20)

        answer = client.cancel_group(executor.task_group_id)

        assert (answer["found"], answer["states"]) == (300, {"cancelled": 300})
        assert answer["running"] == []
        assert all(isinstance(future.exception(20), TaskCancelled) for future in futures)
        assert client.cancel_group(executor.task_group_id)["states"] == {}


def test_a_group_that_never_was_is_answered_with_nothing_found(client: Client) -> None:
    answer = client.cancel_group(uuid.uuid4())

    assert (answer["found"], answer["states"], answer["running"]) == (0, {}, [])


def test_named_tasks_are_cancelled_and_the_others_stay(client: Client, away: str) -> None:
    executor = Executor(away, client=client)
    futures = [executor.submit(double, i) for i in range(40)]
    eventually(lambda: states(client, executor)["pending"] == 40, within_s=20)
    stranger = f"{str(futures[0].task_id)[:-6]}ffffff"

    answer = client.cancel_group(executor.task_group_id, [str(future.task_id) for future in futures[::2]] + [stranger])

    assert answer["states"] == {"cancelled": 20, "unknown": 1}
    assert answer["found"] == 20
    assert states(client, executor) == {"cancelled": 20, "pending": 20}
    again = client.cancel_group(executor.task_group_id, [str(future.task_id) for future in futures])
    assert again["states"] == {"cancelled": 40}
    executor.shutdown(cancel_futures=True)


def test_what_runs_goes_on_without_force_and_ends_with_it(client: Client, pool: RunningPool, tmp_path: Path) -> None:
    with Executor(pool.endpoint_id, client=client) as executor:
        ended = executor.submit(double, 1)
        assert ended.result(20) == 2
        running = executor.submit(wait_for, str(tmp_path / "never"))
        eventually(running.running, within_s=20)
        waiting = [executor.submit(double, i) for i in range(10)]
        eventually(lambda: states(client, executor)["pending"] == 10, within_s=20)
        ids = [str(future.task_id) for future in [ended, running, *waiting]]

        answer = client.cancel_group(executor.task_group_id, ids)

        assert answer["states"] == {"succeeded": 1, "running": 1, "cancelled": 10}
        assert answer["running"] == [str(running.task_id)]
        assert running.running()
        client.cancel_group(executor.task_group_id, force=True)
        assert isinstance(running.exception(20), TaskCancelled)
        assert states(client, executor) == {"succeeded": 1, "cancelled": 11}


def test_only_ones_own_tasks_are_cancelled(service: RunningService, client: Client, away: str) -> None:
    executor = Executor(away, client=client)
    future = executor.submit(double, 1)
    eventually(lambda: states(client, executor)["pending"] == 1, within_s=20)

    with Client(service.url, service.add_user("eve")) as other:
        assert other.cancel_group(executor.task_group_id)["states"] == {}
        assert other.cancel_group(executor.task_group_id, [str(future.task_id)])["states"] == {"unknown": 1}

    assert states(client, executor) == {"pending": 1}
    executor.shutdown(cancel_futures=True)


def test_what_is_no_task_is_refused(client: Client) -> None:
    with pytest.raises(RequestRefused, match="task_ids"):
        client.cancel_group(uuid.uuid4(), [str(uuid.uuid4())])


def leave(trace: str) -> None:
    open(trace, "w").close()


def test_a_task_that_is_cancelled_on_its_way_never_runs(client: Client, pool: RunningPool, tmp_path: Path) -> None:
    with Executor(pool.endpoint_id, client=client) as executor:
        executor.submit(double, 1).result(20)
        trace = tmp_path / "trace"
        blocker = executor.submit(wait_for, str(tmp_path / "go"))
        eventually(blocker.running, within_s=20)
        futures = [executor.submit(leave, str(trace)) for _ in range(200)]
        assert all(future.cancel() for future in futures)
        # What is on its way to the bus is known to nobody yet, and is cancelled once it is there.
        eventually(lambda: all(channel.cancellations.untold == 0 for _, channel in executor._channels.all()), 20)
        assert states(client, executor)["pending"] == 0
        (tmp_path / "go").touch()
        assert blocker.result(20) == "done"
    assert not trace.exists()


def test_cancellations_go_together_and_are_told_again_while_the_service_is_away() -> None:
    told: list[tuple[int, bool]] = []
    away, may_tell = [True], threading.Event()

    def tell(tasks: list[uuid.UUID], force: bool) -> None:
        may_tell.wait(20)
        if away:
            away.clear()
            raise ServiceUnavailable("away", status=503)
        told.append((len(tasks), force))

    cancellations = Cancellations(tell, retry_s=0.01)
    for force in (False, True):
        for _ in range(100):
            cancellations.expect()
            cancellations.add([(uuid.uuid4(), force)])
    may_tell.set()
    cancellations.wait(20)

    assert cancellations.untold == 0
    assert sum(number for number, _ in told) == 200
    assert len(told) <= 4
    assert {force for _, force in told} == {False, True}
