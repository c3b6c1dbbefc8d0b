"""Large payloads while parts of `headrace up` die."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from headrace_up import Up, headrace_up
from waiting import eventually

from headrace.sdk import Client, Executor

MB = 1_000_000
SERVICE = "headrace.cli.main serve"


def test_a_service_that_is_killed_during_an_upload_costs_time_and_nothing_else(tmp_path: Path) -> None:
    content = os.urandom(40 * MB)
    with (
        headrace_up(tmp_path / "home", "--workers", "1") as up,
        Client(up.url, up.token) as client,
        Executor(up.endpoint_id, client=client) as executor,
    ):
        executor.submit(len, b"").result(30)

        future = executor.submit(bytes.swapcase, content)
        eventually(lambda: stored_bytes(up) > 10 * MB, 20, "the upload is under way")
        assert not future.done()
        os.kill(up.pid_of(SERVICE), signal.SIGKILL)
        assert future.result(50) == content.swapcase()


def stored_bytes(up: Up) -> int:
    """How much the stream of objects has on the disk."""
    return sum(path.stat().st_size for path in up.home.glob("nats/**/OBJECTS/msgs/*.blk"))
