"""The end of an executor, of a client and of the whole program with work under way."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from running_pool import running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.sdk import Client, Executor, NotFound

HEAD = """
import sys, threading
from headrace.sdk import Client, Executor
executor = Executor(sys.argv[3], Client(sys.argv[1], sys.argv[2]), sys.argv[4])
def double(x):
    return 2 * x
"""


def run(service: RunningService, endpoint: str, script: str) -> tuple[str, uuid.UUID]:
    """What a program with an executor says until it ends, and its group."""
    group = uuid.uuid4()
    arguments = [service.url, service.token, endpoint, str(group)]
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script, *arguments], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, group


def states(client: Client, group: uuid.UUID) -> Counter[str]:
    try:
        return Counter(task["state"] for task in client.get_task_group(group)["tasks"])
    except NotFound:
        return Counter()


def test_a_program_may_submit_and_end(service: RunningService, client: Client, away: str) -> None:
    _, group = run(service, away, "for i in range(600): executor.submit(double, i)")

    assert states(client, group) == {"pending": 600}


def test_a_program_may_cancel_and_end(service: RunningService, client: Client, away: str) -> None:
    script = """
futures = [executor.submit(double, i) for i in range(600)]
assert all(future.cancel() for future in futures[:400])
"""
    _, group = run(service, away, script)

    assert states(client, group)["pending"] == 200
    assert states(client, group).keys() <= {"pending", "cancelled"}


def test_threads_of_a_program_may_submit_after_its_main_thread(
    service: RunningService, client: Client, away: str
) -> None:
    script = """
def later():
    threading.main_thread().join()
    for i in range(300): executor.submit(double, i)
executor.submit(double, 0)
threading.Thread(target=later).start()
"""
    _, group = run(service, away, script)

    assert states(client, group) == {"pending": 301}


def test_a_shutdown_that_does_not_wait_lets_the_results_come(
    service: RunningService, client: Client, tmp_path: Path
) -> None:
    with running_pool(service, tmp_path) as pool:
        executor = Executor(pool.endpoint_id, client=client)
        futures = [executor.submit(pow, i, 2) for i in range(50)]

        executor.shutdown(wait=False)
        executor.shutdown(wait=False)

        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(pow, 2, 2)
        with pytest.raises(RuntimeError, match="after shutdown"):
            list(executor.map(pow, [1], [1]))
        assert [future.result(20) for future in futures] == [i * i for i in range(50)]
        executor.shutdown()


def test_a_shutdown_waits_for_what_another_thread_waits_for(service: RunningService, client: Client, away: str) -> None:
    executor = Executor(away, client=client)
    future = executor.submit(pow, 2, 2)
    waiting = threading.Thread(target=executor.shutdown)
    waiting.start()
    eventually(lambda: executor._shut_down)

    future.cancel()

    waiting.join(20)
    assert not waiting.is_alive()


def test_what_cannot_be_stored_before_the_end_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_service(tmp_path) as service, Client(service.url, service.token) as client:
        executor = Executor(service.add_endpoint("away")[0], client=client)
        executor.submit(pow, 2, 2)
        ((session, channel),) = executor._channels.all()
        session.finish(time.monotonic() + 20)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        service.nats.kill()
        service.loop.run(service.nats.wait())
        executor.submit(pow, 2, 2)

        channel.finish(time.monotonic() + 0.05)

        assert "1 tasks of group" in caplog.text
        service.loop.run(service.nats.start())
        executor.shutdown(cancel_futures=True)
