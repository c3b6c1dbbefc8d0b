"""Time-outs, retries and losses: per executor, per call and over HTTP, with real pools and processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from gates import wait_for
from headrace_up import is_alive
from running_pool import RunningPool
from service import RunningService
from waiting import eventually, let_pass

from headrace.sdk import Client, Executor, TaskExpired, TaskLost


def show(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def hang_with_a_grandchild(path: str) -> None:
    import subprocess
    import time
    from pathlib import Path

    child = subprocess.Popen(["sh", "-c", "sleep 300 & wait"])
    Path(path).write_text(str(child.pid))
    time.sleep(300)  # until its time is over


def fail_until(path: str, tries: int) -> int:
    from pathlib import Path

    with Path(path).open("a") as file:
        file.write(".")
    count = len(Path(path).read_text())
    if count < tries:
        raise ValueError(f"try {count}")
    return count


def die_once(path: str) -> str:
    import os
    import signal
    from pathlib import Path

    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def function_id(executor: Executor, function: Any) -> str:
    return executor.register_function(function)


def test_the_options_are_not_keyword_arguments_of_the_function(executor: Executor) -> None:
    view = executor.with_options(task_timeout_s=30, max_retries=1)

    assert view.submit(show, 1, task_timeout_s=2, max_retries=3).result(20) == (
        (1,),
        {"task_timeout_s": 2, "max_retries": 3},
    )
    assert list(view.map(len, ["a", "bc"], chunksize=2)) == [1, 2]
    assert view.submit_to_registered_function(function_id(executor, len), ([1, 2],)).result(20) == 2
    assert view.task_count_submitted == executor.task_count_submitted


def test_a_time_out_kills_the_function_and_what_it_started(executor: Executor, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    future = executor.with_options(task_timeout_s=1.0).submit(hang_with_a_grandchild, str(note))

    with pytest.raises(TaskExpired, match=r"longer than its limit of 1 s \(task_timeout_s\)"):
        future.result(20)

    child = int(note.read_text())
    eventually(lambda: not is_alive(child), message="the child of the function is gone")
    assert future.attempts == 1
    assert client_state(executor, future.task_id) == "expired"
    assert executor.submit(os.getpid).result(20)


def test_a_function_that_raises_is_tried_again_after_the_delay(executor: Executor, tmp_path: Path) -> None:
    patient, tries = executor.with_options(max_retries=3, retry_delay_s=3600), tmp_path / "patient"
    waits = patient.submit(fail_until, str(tries), 3)
    future = executor.with_options(max_retries=3, retry_delay_s=0.2).submit(fail_until, str(tmp_path / "tries"), 3)

    assert future.result(20) == 3
    assert future.attempts == 3
    eventually(tries.exists, 10)
    assert waits.cancel(force=True)
    assert tries.read_text() == ".", "it is tried again after its delay only"


def test_the_last_error_is_raised_when_the_retries_are_used_up(executor: Executor, tmp_path: Path) -> None:
    future = executor.with_options(max_retries=1).submit(fail_until, str(tmp_path / "tries"), 9)

    with pytest.raises(ValueError, match="try 2"):
        future.result(20)
    assert future.attempts == 2


def test_a_worker_that_dies_costs_an_attempt_or_the_task(executor: Executor, tmp_path: Path) -> None:
    again = executor.submit(die_once, str(tmp_path / "again"))
    once = executor.with_options(rerun_on_loss=False).submit(die_once, str(tmp_path / "once"))

    assert again.result(20) == "survived"
    assert again.attempts == 2
    with pytest.raises(TaskLost, match="must not run twice"):
        once.result(20)
    assert client_state(executor, once.task_id) == "failed"


def test_options_over_http_are_the_same(client: Client, executor: Executor, tmp_path: Path) -> None:
    hanging, failing = function_id(executor, wait_for), function_id(executor, fail_until)
    endpoint = executor.endpoint_id
    assert endpoint is not None

    timed = client.submit(endpoint, hanging, [str(tmp_path / "never")], options={"task_timeout_s": 0.3})
    tried = client.submit(endpoint, failing, [str(tmp_path / "tries"), 2], options={"max_retries": 1})

    assert client.get_task(timed, wait_s=20)["error"]["code"] == "TaskExpired"
    assert client.get_task(tried, wait_s=20)["attempts"] == 2
    with pytest.raises(ValueError, match="max_retries must be from 0"):
        client.submit(endpoint, failing, options={"max_retries": -1})


def test_an_invocation_takes_options(service: RunningService, executor: Executor, tmp_path: Path) -> None:
    hanging = function_id(executor, wait_for)
    body = {
        "endpoint_id": str(executor.endpoint_id),
        "args": [str(tmp_path / "never")],
        "options": {"task_timeout_s": 0.2},
        "wait": "20s",
    }

    answer = service.http().post(f"/api/v1/functions/{hanging}/invoke", json=body)

    assert answer.json()["state"] == "expired"


def client_state(executor: Executor, task_id: Any) -> str:
    return str(executor.client.get_task(task_id, wait_s=30)["state"])


def test_a_task_that_waits_too_long_for_a_worker_never_starts(
    client: Client, late: RunningPool, tmp_path: Path
) -> None:
    gate, note, busy = tmp_path / "gate", tmp_path / "note", tmp_path / "busy"
    late.start()
    with Executor(late.endpoint_id, client=client) as executor:
        first = executor.submit(wait_for, str(gate), str(busy))
        eventually(busy.exists, 10)
        patient = executor.submit(os.getpid)
        # More than the engine takes: some wait in it, some in turns, some in the queue.
        impatient = [executor.with_options(queue_timeout_s=0.5).submit(wait_for, "/", str(note)) for _ in range(80)]
        marked = executor.with_options(queue_timeout_s=0.5, rerun_on_loss=False).submit(wait_for, "/", str(note))

        for future in [*impatient, marked]:
            with pytest.raises(TaskExpired, match=r"longer than its limit of 0\.5 s \(queue_timeout_s\)"):
                future.result(60)

        assert not first.done()
        assert impatient[0].attempts == 0
        assert client_state(executor, impatient[0].task_id) == "expired"
        gate.touch()
        assert first.result(60) == "done"
        assert patient.result(60)
        assert not note.exists()


def test_a_task_that_starts_in_time_runs_as_long_as_it_likes(executor: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    future = executor.with_options(queue_timeout_s=0.5).submit(wait_for, str(gate))
    eventually(future.running, 10)
    assert future.task_id is not None

    assert executor.client.get_task(future.task_id, wait_s=0.8)["state"] in ("pending", "running")

    gate.touch()
    assert future.result(60) == "done"


def test_what_waited_too_long_for_its_endpoint_never_starts(client: Client, late: RunningPool, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with Executor(late.endpoint_id, client=client) as executor:
        impatient = executor.with_options(queue_timeout_s=0.2).submit(wait_for, "/", str(note))
        patient = executor.with_options(queue_timeout_s=60).submit(wait_for, "/")
        let_pass(0.3, "the queue time is over, and the service has not looked yet")
        late.start()

        with pytest.raises(TaskExpired, match="queue_timeout_s"):
            impatient.result(60)
        assert patient.result(60) == "done"
        assert not note.exists()


def test_the_queue_time_goes_on_while_the_pool_is_restarted(client: Client, late: RunningPool, tmp_path: Path) -> None:
    gate, note, busy = tmp_path / "gate", tmp_path / "note", tmp_path / "busy"
    late.start()
    with Executor(late.endpoint_id, client=client) as executor:
        first = executor.submit(wait_for, str(gate), str(busy))
        eventually(busy.exists, 10)
        waiting = executor.with_options(queue_timeout_s=1.0).submit(wait_for, "/", str(note))
        late.kill()
        let_pass(1.0, "the queue time is over")
        gate.touch()
        late.start()

        with pytest.raises(TaskExpired, match="queue_timeout_s"):
            waiting.result(20)
        assert first.result(20) == "done"
        assert not note.exists()


def test_what_waited_too_long_is_expired_though_its_endpoint_never_comes(client: Client, late: RunningPool) -> None:
    with Executor(late.endpoint_id, client=client) as executor:
        seen = executor.with_options(queue_timeout_s=0.3).submit(len, "x")
        asked = client.submit(late.endpoint_id, function_id(executor, len), ["x"], options={"queue_timeout_s": 0.3})
        assert client.get_task(asked)["state"] == "pending"

        eventually(lambda: client.get_task(asked)["state"] == "expired")
        with pytest.raises(TaskExpired, match="queue_timeout_s"):
            seen.result(60)


def test_what_waited_too_long_in_front_of_a_full_pool_is_expired(
    client: Client, late: RunningPool, tmp_path: Path
) -> None:
    gate, busy = tmp_path / "gate", tmp_path / "busy"
    late.start()
    with Executor(late.endpoint_id, client=client) as executor:
        first = executor.submit(wait_for, str(gate), str(busy))
        eventually(busy.exists, 10)
        patient = [executor.submit(len, "x") for _ in range(200)]
        impatient = executor.with_options(queue_timeout_s=0.5).submit(len, "x")

        with pytest.raises(TaskExpired, match="queue_timeout_s"):
            impatient.result(60)
        assert not patient[0].done()
        gate.touch()
        assert first.result(60) == "done"
        assert [future.result(60) for future in patient] == [1] * 200
