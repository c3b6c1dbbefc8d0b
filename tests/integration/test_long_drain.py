"""A pool that is told to stop while a task runs for longer than its credential lives."""

from __future__ import annotations

from pathlib import Path

from running_pool import running_pool
from service import running_service
from waiting import eventually

from headrace.sdk.client import Client

_LIFE_S = 2.0
SOURCE = """
import time

def outlast(mark, seconds):
    open(mark, "w").close()
    time.sleep(seconds)  # the work itself
    return "done"
"""


def test_a_task_that_outlasts_the_credential_while_its_pool_drains_keeps_its_result(tmp_path: Path) -> None:
    mark = tmp_path / "it-runs"
    with (
        running_service(tmp_path, session_ttl_s=_LIFE_S) as service,
        running_pool(service, tmp_path / "pool", workers=1, grace_s=30.0) as pool,
        Client(service.url, service.token) as client,
    ):
        function_id = client.register_source_code(SOURCE, "outlast")
        task_id = client.submit(pool.endpoint_id, function_id, [str(mark), 2 * _LIFE_S])
        eventually(mark.exists, 10)

        pool.stop()

        task = client.get_task(task_id)
        assert (task["state"], task.get("result"), task.get("attempts")) == ("succeeded", "done", 1)
