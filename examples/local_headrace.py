"""`headrace up` in a home that is thrown away: for the demo, and for trying things without leaving traces."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 15.0
_POLL_S = 0.05
_TAIL_LINES = 15
_REMOVE_TRIES = 60


class HeadraceDidNotStart(Exception):
    """Raised when `headrace up` ended, or was not ready in time; the text ends with its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalHeadrace:
    """A Headrace that is up: where it answers, and the token of its administrator."""

    home: Path
    url: str
    token: str
    endpoint_id: str


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A directory for one run, gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    try:
        yield home
    finally:
        _remove(home)


@contextlib.contextmanager
def headrace_up(home: Path, workers: int = 2) -> Iterator[LocalHeadrace]:
    """Start `headrace up` on free ports, and stop it at the end of the block, however the block ends.

    Raises `HeadraceDidNotStart`.
    """
    ready_file, output_file = home / "ready.json", home / "up.log"
    command = [sys.executable, "-m", "headrace.cli.main", "up", "--home", str(home), "--ready-file", str(ready_file)]
    command += ["--port", "0", "--nats-port", "0", "--workers", str(workers)]
    with output_file.open("wb") as output, _signals_held() as held:
        # A session of its own: Ctrl-C reaches us alone, and we stop it in our own time.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        if held:
            raise KeyboardInterrupt
        ready = _when_ready(process, ready_file, home)
        yield LocalHeadrace(home=home, url=ready["url"], token=ready["token"], endpoint_id=ready["endpoint_id"])
    finally:
        _stop(process)


def log_tails(home: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of each log of a home, under the log's name."""
    parts = []
    for log in (home / "up.log", *sorted((home / "logs").glob("*.log")), *sorted(home.glob("endpoints/*/*.log"))):
        with contextlib.suppress(OSError):
            last = log.read_text(errors="replace").splitlines()[-lines:]
            if last:
                parts.append("\n".join([f"--- {log.relative_to(home)}", *last]))
    return "\n".join(parts)


@contextlib.contextmanager
def _signals_held() -> Iterator[list[int]]:
    """Keep signals from interrupting the start of a process, which nobody would know of then; gives those that came."""
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, lambda number, _frame: held.append(number)) for number in numbers}
    try:
        yield held
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _when_ready(process: subprocess.Popen[bytes], ready_file: Path, home: Path) -> dict[str, str]:
    end = time.monotonic() + READY_WITHIN_S
    while not ready_file.exists():
        if process.poll() is not None:
            raise HeadraceDidNotStart(f"`headrace up` ended with status {process.returncode}\n{log_tails(home)}")
        if time.monotonic() > end:
            raise HeadraceDidNotStart(f"`headrace up` was not ready after {READY_WITHIN_S:g} s\n{log_tails(home)}")
        time.sleep(_POLL_S)
    ready: dict[str, str] = json.loads(ready_file.read_text())
    return ready


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOPPED_WITHIN_S)
    except BaseException:
        # It does not end, or somebody is impatient. Its children watch it, and end with it.
        process.kill()
        process.wait()
        raise


def _remove(home: Path) -> None:
    """Remove a home; what was killed may write a last line while this goes on."""
    for _ in range(_REMOVE_TRIES):
        shutil.rmtree(home, ignore_errors=True)
        if not home.exists():
            return
        time.sleep(_POLL_S)
    shutil.rmtree(home)
