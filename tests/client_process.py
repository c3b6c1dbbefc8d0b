"""A client as a process of its own, which can be suspended as a laptop is.

with client_process(service, endpoint_id) as client:
    client.submit("double", 2)
    client.suspend()
    client.resume()
    client.results() == [4]
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from service import RunningService

_WITHIN_S = 45.0

_PROGRAM = """
import json, sys
from headrace.sdk import Client, Executor

def double(x):
    return 2 * x

def hold(path):
    import os, time
    open(path + ".held", "w").close()
    while not os.path.exists(path):
        time.sleep(0.02)  # until the test lets it go on
    return "held"

def filled(size):
    return bytes(size)

url, token, endpoint_id = json.loads(sys.stdin.readline())
futures = []
with Client(url, token) as client, Executor(endpoint_id, client=client) as executor:
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        if name == "results":
            found = [future.result(40) for future in futures]
            answer = [len(each) if isinstance(each, bytes) else each for each in found]
        elif name == "done":
            answer = sum(future.done() for future in futures)
        else:
            futures.append(executor.submit(globals()[name], *arguments))
            answer = len(futures)
        print(json.dumps(answer), flush=True)
"""


class ClientProcess:
    """What the process does, one command after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def submit(self, function: str, *arguments: Any) -> None:
        """Submit a call of `double`, `hold` or `filled`."""
        self._ask(function, *arguments)

    def results(self) -> list[Any]:
        """The results of everything that was submitted, in order; of bytes their number."""
        found: list[Any] = self._ask("results")
        return found

    def done(self) -> int:
        """How many futures have ended."""
        return int(self._ask("done"))

    def suspend(self) -> None:
        """Stop it where it is."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def _ask(self, *command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        watchdog = threading.Timer(_WITHIN_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
            watchdog.join()
        assert line, f"the client ended, or did not answer {command} within {_WITHIN_S} s"
        return json.loads(line)


@contextlib.contextmanager
def client_process(service: RunningService, endpoint_id: str) -> Iterator[ClientProcess]:
    """Start the process, with an executor for this endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps([service.url, service.token, endpoint_id]) + "\n")
        yield ClientProcess(process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
