"""`headrace up` as a process, for tests: on free ports, in a home of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waiting import eventually


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """A system that answers. `ready` is what its ready file says."""

    process: subprocess.Popen[bytes]
    home: Path
    ready_file: Path
    output: Path
    ready: Mapping[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def token(self) -> str:
        return str(self.ready["token"])

    @property
    def nats_url(self) -> str:
        return str(self.ready["nats_url"])

    @property
    def endpoint_id(self) -> str:
        return str(self.ready["endpoint_id"])

    @property
    def environment(self) -> dict[str, str]:
        """What a program finds this system by."""
        return {"HEADRACE_URL": self.url, "HEADRACE_TOKEN": self.token}

    def pids(self) -> list[int]:
        """All processes below it."""
        return descendants(self.process.pid)

    def pid_of(self, words: str) -> int:
        """The one process below it whose command line holds these words. Raises `AssertionError`."""
        found = [pid for pid in self.pids() if words in command_line(pid)]
        assert len(found) == 1, f"{len(found)} processes with {words!r}: {[command_line(p) for p in self.pids()]}"
        return found[0]

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 40.0) -> int:
        """Ask it to stop and wait; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(within_s)

    def said(self) -> str:
        """Everything that it printed."""
        return self.output.read_text()


def command(home: Path, *options: str) -> list[str]:
    """The command line of `headrace up` on free ports."""
    program = [sys.executable, "-m", "headrace.cli.main", "up", "--home", str(home)]
    return [*program, "--port", "0", "--nats-port", "0", *options]


@contextlib.contextmanager
def headrace_up(home: Path, *options: str, within_s: float = 30.0) -> Iterator[Up]:
    """Start it and wait until it is ready; at the end it is stopped, and killed if it does not."""
    home.parent.mkdir(parents=True, exist_ok=True)
    ready_file, output = home.parent / f"{home.name}.ready.json", home.parent / f"{home.name}.output"
    ready_file.unlink(missing_ok=True)  # of one that was killed
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command(home, *options), "--ready-file", str(ready_file)],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
        )
    try:
        ready = eventually(lambda: _ready(process, ready_file, output, home), within_s, "headrace up is ready")
        assert ready is not None
        yield Up(process=process, home=home, ready_file=ready_file, output=output, ready=ready)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: subprocess.Popen[bytes], ready_file: Path, output: Path, home: Path) -> dict[str, Any] | None:
    if process.poll() is not None:
        logs = "".join(f"\n--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted((home / "logs").glob("*.log")))
        raise RuntimeError(f"headrace up ended with status {process.returncode}:\n{output.read_text()}{logs}")
    if not ready_file.exists():
        return None
    document: dict[str, Any] = json.loads(ready_file.read_text())
    return document


def descendants(pid: int) -> list[int]:
    """All living processes below this one."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The command, in parentheses, may hold spaces; after it come state and parent.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command_line(pid: int) -> str:
    """The words with which a process was started."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""
