"""The audit log of a pool: a line for each task, and nothing of what was computed."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

from running_pool import running_pool
from service import RunningService
from waiting import eventually

from headrace.sdk import Client, Executor

SOURCE = "def add(one, other):\n    return one + other\n"
KEPT_QUIET = "something-secret"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_task_leaves_a_line_with_who_what_where_when_and_how_it_ended(
    service: RunningService, tmp_path: Path
) -> None:
    path = tmp_path / "audit.log"
    with (
        Client(service.url, service.token) as client,
        running_pool(service, tmp_path / "pool", name="audited", workers=1, audit_path=str(path)) as pool,
    ):
        function = client.register_source_code(SOURCE)
        with Executor(pool.endpoint_id, client=client) as executor:
            good = executor.submit_to_registered_function(function, (KEPT_QUIET, "!"))
            bad = executor.submit_to_registered_function(function, (KEPT_QUIET, 1))
            assert good.result(20) == f"{KEPT_QUIET}!"
            assert isinstance(bad.exception(20), TypeError)
        eventually(lambda: len(lines(path)) == 2, 10)
        assert KEPT_QUIET not in path.read_text()
        by_task = {each["task_id"]: each for each in lines(path)}
        line = by_task[str(good.task_id)]
        assert line["event"] == "task_ended"
        assert line["principal"] == "urn:headrace:user:admin"
        assert (line["function_id"], line["endpoint_id"], line["pool"]) == (function, pool.endpoint_id, "default")
        assert (line["state"], line["attempts"]) == ("succeeded", 1)
        assert line["user"] == pwd.getpwuid(os.geteuid()).pw_name
        assert line["submitted_at"] <= line["started_at"] + 1
        assert line["taken_at"] <= line["started_at"] <= line["ended_at"]
        assert (by_task[str(bad.task_id)]["state"], by_task[str(bad.task_id)]["error"]) == ("failed", "TypeError")


def test_what_ended_last_is_written_when_the_pool_stops(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with (
        Client(service.url, service.token) as client,
        running_pool(service, tmp_path / "pool", name="audited-2", workers=1, audit_path=str(path)) as pool,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        futures = [executor.submit(abs, number) for number in range(200)]
        assert [future.result(20) for future in futures] == list(range(200))
        pool.stop()
        assert {each["task_id"] for each in lines(path)} == {str(future.task_id) for future in futures}
