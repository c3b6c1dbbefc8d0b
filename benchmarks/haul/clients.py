"""A client as a process of its own: `python -m benchmarks.haul.clients '{"url", "token", "endpoint_id", …}'`.

It says `ready` when it has had a result. Then each line of its input is a command:

    run COUNT           so many no-ops, a window at a time; answers the seconds that it took
    offer PER_S SECONDS so many a second, evenly; answers how many ended
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from benchmarks.functions import no_op
from headrace.sdk import Client, Executor

_WINDOW = 2_000
_TICK_S = 0.01


class ClientProcess:
    """Starts one, from the outside."""

    def __init__(self, ready: dict[str, Any]) -> None:
        settings = {name: ready[name] for name in ("url", "token", "endpoint_id")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.haul.clients", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *words: object) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Wait for its answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a client ended with status {self._process.wait()}")
        return line.strip()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def run(executor: Executor, count: int) -> float:
    """So many no-ops, with no more than a window of them under way; the seconds until the last has its value."""
    room = threading.Semaphore(_WINDOW)
    began = time.perf_counter()
    for _ in range(count):
        room.acquire()
        executor.submit(no_op).add_done_callback(lambda _: room.release())
    for _ in range(_WINDOW):
        room.acquire()
    return time.perf_counter() - began


def _offer(executor: Executor, per_s: float, seconds: float) -> int:
    ended, lock = 0, threading.Lock()

    def on_end(_: object) -> None:
        nonlocal ended
        with lock:
            ended += 1

    began, offered = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - began) < seconds:
        while offered < passed_s * per_s:
            executor.submit(no_op).add_done_callback(on_end)
            offered += 1
        time.sleep(_TICK_S)
    return ended


def main() -> None:
    settings = json.loads(sys.argv[1])
    with (
        Client(settings["url"], settings["token"]) as client,
        Executor(settings["endpoint_id"], client=client) as executor,
    ):
        executor.submit(no_op).result(60)
        print("ready", flush=True)
        for line in sys.stdin:
            word, *numbers = line.split()
            if word == "run":
                print(run(executor, int(numbers[0])), flush=True)
            else:
                print(_offer(executor, float(numbers[0]), float(numbers[1])), flush=True)


if __name__ == "__main__":
    main()
