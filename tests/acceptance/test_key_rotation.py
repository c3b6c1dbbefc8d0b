"""Keys are replaced while tasks are queued and clients wait: nothing is lost, nobody logs in again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from gates import wait_for
from headrace_up import Up, headrace_up

from headrace.sdk import Client, Executor

WITHIN_S = 60.0


def headrace(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done


def where(up: Up) -> tuple[str, ...]:
    """The options with which it comes up again at its old addresses."""
    return ("--port", str(urlsplit(up.url).port), "--nats-port", str(urlsplit(up.nats_url).port), "--workers", "1")


def test_keys_are_replaced_with_tasks_queued_and_running(tmp_path: Path) -> None:
    home, go = tmp_path / "home", tmp_path / "go"
    with headrace_up(home, "--workers", "1") as up:
        addresses = where(up)
        client = Client(up.url, up.token)
        executor = Executor(up.endpoint_id, client=client)
        assert executor.submit(pow, 2, 5).result(WITHIN_S) == 32
        runs = executor.submit(wait_for, str(go))
        queued = [executor.submit(pow, 2, number) for number in range(50)]
        offline = client.register_endpoint("not started")["endpoint_id"]
        function = client.register_source_code("def f(x):\n    return x\n")
        waits, cancelled = (client.submit(offline, function, [number]) for number in range(2))
        assert "running already" in headrace("keys", "rotate", "--home", str(home), "--yes", ok=False).stderr
        up.stop()

    headrace("keys", "rotate", "--home", str(home), "--yes")
    # The client goes on by itself, as it does when its credential has expired.
    with headrace_up(home, *addresses) as up:
        go.touch()
        assert [future.result(WITHIN_S) for future in queued] == [2**number for number in range(50)]
        assert runs.result(WITHIN_S) == "done"
        assert executor.submit(pow, 2, 6).result(WITHIN_S) == 64
        # What was stored before is believed, by those who come now.
        with Executor(up.endpoint_id, task_group_id=executor.task_group_id, client=client) as late:
            assert sorted(f.result(WITHIN_S) for f in late.reload_tasks() if f.task_id != runs.task_id)[:2] == [1, 2]
        assert client.get_task(waits)["state"] == "pending"
        assert client.cancel(cancelled)["state"] == "cancelled"
        assert len(list(client.list_tasks(state="succeeded"))) == 53
        executor.shutdown()
        up.stop()

    assert "Forgot 0 of 1" in headrace("keys", "forget", "--home", str(home), "--older-than", "1h", "--yes").stdout
    client.close()
