"""Headrace: `headrace up` in a home of its own, and an `Executor`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from benchmarks import functions
from benchmarks.memory import MARK
from benchmarks.providers import Door
from benchmarks.systems import WORKERS
from headrace.sdk import Client, Executor

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 20.0
_POLL_S = 0.002


class Headrace:
    """Everything that `headrace up` starts, and one executor."""

    def __init__(self, work: Path, durability: str = "always", engine: Mapping[str, Any] | None = None) -> None:
        """`engine` is what its endpoint's configuration says there."""
        self._home = work / "home"
        self._ready_file = work / "ready.json"
        self._log = work / "headrace-up.log"
        self._durability = durability
        self._engine = engine
        self._up: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        self._executor: Executor | None = None
        self.ready: dict[str, Any] = {}
        """What the ready file said: url, token, endpoint_id ..."""
        self.ready_s = 0.0
        """How long `headrace up` took until everything answered."""

    @property
    def home(self) -> Path:
        """Its home."""
        return self._home

    @property
    def client(self) -> Client:
        """The client of the service."""
        assert self._client is not None
        return self._client

    def start(self) -> None:
        self._start_up()
        self._client = Client(self.ready["url"], self.ready["token"])
        self._executor = Executor(self.ready["endpoint_id"], self._client)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        assert self._executor is not None
        return self._executor.submit(function, *args)

    def results(self, handles: Sequence[Future[Any]]) -> list[Any]:
        return [handle.result() for handle in handles]

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_up)
            if self._client is not None:
                stack.callback(self._client.close)
            if self._executor is not None:
                stack.callback(self._executor.shutdown, cancel_futures=True)

    def provider(self) -> Door:
        """The Compute provider, and an action that runs a no-op."""
        task = {"function_id": self.client.register_function(functions.no_op)}
        return Door(
            url=self.ready["url"],
            path="/actions/compute/v3",
            token=self.ready["token"],
            body={"endpoint_id": self.ready["endpoint_id"], "tasks": [task]},
        )

    def role(self, command: Sequence[str]) -> str:
        """What a process of ours does, by its command line."""
        words = " ".join(command)
        for mark, role in _ROLES:
            if mark in words:
                return role
        return Path(command[0]).name if command else "?"

    def _start_up(self) -> None:
        if self._engine is not None:
            config = self._home / "endpoints" / "default" / "config.yaml"
            config.parent.mkdir(parents=True, mode=0o700)
            # JSON is YAML.
            config.write_text(json.dumps({"display_name": "benchmark", "engine": dict(self._engine)}))
        command = [str(Path(sys.executable).with_name("headrace")), "up", "--home", str(self._home)]
        command += ["--port", "0", "--nats-port", "0", "--workers", str(WORKERS)]
        command += ["--ready-file", str(self._ready_file), "--durability", self._durability]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_") or name == MARK
        }
        # As installed: the benchmark's own path is the client's business.
        environment.pop("PYTHONPATH", None)
        began = time.perf_counter()
        with self._log.open("wb") as log:
            self._up = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        while not self._ready_file.exists():
            if self._up.poll() is not None:
                raise RuntimeError(f"`headrace up` ended with status {self._up.returncode}: {self._last_words()}")
            if time.perf_counter() - began > _START_LIMIT_S:
                raise RuntimeError(f"`headrace up` was not ready within {_START_LIMIT_S:.0f} s: {self._last_words()}")
            time.sleep(_POLL_S)
        self.ready_s = time.perf_counter() - began
        self.ready = json.loads(self._ready_file.read_text())

    def _stop_up(self) -> None:
        if self._up is None or self._up.poll() is not None:
            return
        self._up.send_signal(signal.SIGTERM)
        try:
            self._up.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._up.kill()
            self._up.wait()
            raise RuntimeError(f"`headrace up` did not stop within {_STOP_LIMIT_S:.0f} s") from None

    def _last_words(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").strip().splitlines()[-5:]) or "it said nothing"


_ROLES = (
    ("nats-server", "nats"),
    ("headrace.endpoint.worker", "worker"),
    ("process_worker_pool", "parsl"),
    ("interchange.py", "parsl"),
    ("endpoint.pool", "pool"),
    (" serve ", "service"),
    (" endpoint start ", "manager"),
    (" up ", "supervisor"),
)
