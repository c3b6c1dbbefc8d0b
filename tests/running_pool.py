"""A real pool for tests: the process that a manager would start, with its workers.

with running_service(tmp_path) as service, running_pool(service, tmp_path / "pool") as pool:
    pool.endpoint_id
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service import RunningService
from waiting import eventually

_STOP_S = 20.0


@dataclass
class RunningPool:
    """A pool of an endpoint; it can be stopped and started again, with the same endpoint."""

    endpoint_id: str
    settings_path: Path
    log_path: Path
    status_path: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; returns when it takes tasks."""
        self.status_path.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headrace.endpoint.pool", str(self.settings_path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(self._serves, _STOP_S, "the pool serves")

    def stop(self) -> None:
        """Ask it to stop, and wait for it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self.stop()

    def _serves(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the pool ended with {self._process.returncode}:\n{self.log_path.read_text()}")
        return self.status_path.exists()


@contextlib.contextmanager
def running_pool(
    service: RunningService,
    directory: Path,
    *,
    workers: int = 2,
    started: bool = True,
    name: str = "here",
    owner: str | None = None,
    **settings: Any,
) -> Iterator[RunningPool]:
    """Register an endpoint of the administrator's, or of whoever has the token `owner`, and run its default pool
    (later, without `started`).

    `settings` are those of `headrace.endpoint.pool_file.PoolSettings`, as they are in its file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    endpoint_id, token = service.add_endpoint(name, owner)
    token_path = directory / "endpoint.token"
    token_path.write_text(token)
    token_path.chmod(0o600)
    settings_path, status_path = directory / "pool.json", directory / "status.json"
    settings_path.write_text(
        json.dumps(
            {
                "service_url": service.url,
                "endpoint_id": endpoint_id,
                "token_path": str(token_path),
                "pool": "default",
                "workers": workers,
                "python": None,
                "status_path": str(status_path),
                "pids_path": str(directory / "pids"),
                "environment": {},
                "grace_s": 1.0,
                **settings,
            }
        )
    )
    pool = RunningPool(endpoint_id, settings_path, directory / "pool.log", status_path)
    try:
        if started:
            pool.start()
        yield pool
    finally:
        pool.stop()
