"""An endpoint on another host has an address and a token, no more: it goes on after a restore and with new keys."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gates import wait_for
from headrace_up import Up, headrace_up
from waiting import eventually

from headrace.sdk import Client, Executor

WITHIN_S = 60.0


def headrace(*arguments: str) -> None:
    command = [sys.executable, "-m", "headrace.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def addresses(up: Up) -> tuple[str, ...]:
    """The options with which it comes up again where it was."""
    return ("--port", str(urlsplit(up.url).port), "--nats-port", str(urlsplit(up.nats_url).port), "--no-endpoint")


@contextlib.contextmanager
def endpoint_elsewhere(home: Path, up: Up) -> Iterator[subprocess.Popen[bytes]]:
    """An endpoint with one worker, in a home of its own."""
    home.mkdir()
    token = home / "token"
    token.write_text(up.token)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    environment["HEADRACE_HOME"] = str(home)
    command = [sys.executable, "-m", "headrace.cli.main", "endpoint", "start", "--workers", "1"]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--url", up.url, "--token-file", str(token)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def test_it_works_off_its_queue_after_a_restore_and_after_new_keys(tmp_path: Path) -> None:
    home, restored, go = tmp_path / "home", tmp_path / "restored", [tmp_path / "go-0", tmp_path / "go-1"]
    started = [tmp_path / "started-0", tmp_path / "started-1"]
    with contextlib.ExitStack() as stack:
        with headrace_up(home, "--no-endpoint") as up:
            where = addresses(up)
            elsewhere = stack.enter_context(endpoint_elsewhere(tmp_path / "other-host", up))
            client = stack.enter_context(Client(up.url, up.token))
            (endpoint,) = eventually(client.get_endpoints, WITHIN_S, "it has registered")
            executor = stack.enter_context(Executor(endpoint["endpoint_id"], client=client))
            # The first task runs all the while; what comes behind it waits, in the pool or in the store.
            parts: list[list[Any]] = []
            for number in range(2):
                first = executor.submit(wait_for, str(go[number]), str(started[number]))
                parts.append([first, *(executor.submit(pow, 2, power) for power in range(40))])
            eventually(started[0].exists, WITHIN_S, "the first task runs")
            eventually(lambda: all(future.task_id for part in parts for future in part), WITHIN_S, "all are stored")
            headrace("backup", str(tmp_path / "backup.tar"), "--home", str(home))
            up.stop()

        headrace("restore", str(tmp_path / "backup.tar"), "--home", str(restored))
        with headrace_up(restored, *where) as up:
            go[0].touch()
            assert [future.result(WITHIN_S) for future in parts[0]] == ["done", *(2**power for power in range(40))]
            eventually(started[1].exists, WITHIN_S, "the second part runs")
            up.stop()

        headrace("keys", "rotate", "--home", str(restored), "--yes")
        with headrace_up(restored, *where):
            go[1].touch()
            assert [future.result(WITHIN_S) for future in parts[1]] == ["done", *(2**power for power in range(40))]
            assert executor.submit(pow, 2, 10).result(WITHIN_S) == 1024
            assert elsewhere.poll() is None, (tmp_path / "other-host" / "output").read_text()
        assert not [path for path in (tmp_path / "other-host").rglob("*") if path.suffix in (".key", ".seed")]
