"""What a watcher says of itself: to the log once for each fact, and to whoever asks for its status."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

STATUS_FILE: Final = "status.json"
_MOST_PROBLEMS: Final = 20


class Report:
    """How one part of a watcher does. Its own thread writes, any may read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._state = "starting"
        self._facts: dict[str, Any] = {}
        self._problems: dict[str, str] = {}
        self._dropped = 0

    def state(self, state: str, **facts: Any) -> None:
        """How it does now, in one word, and what else there is to say."""
        with self._lock:
            self._state = state
            self._facts |= facts

    def problem(self, key: str, text: str) -> None:
        """Something is wrong with `key`; told once until it is `mended`."""
        with self._lock:
            if self._problems.get(key) == text:
                return
            if len(self._problems) >= _MOST_PROBLEMS and key not in self._problems:
                self._dropped += 1
                return
            self._problems[key] = text
        logger.warning("%s: %s", self.name, text, extra={"action": "watch_problem", "folder": self.name})

    def mended(self, key: str) -> None:
        """Nothing is wrong with `key` any more."""
        with self._lock:
            text = self._problems.pop(key, None)
        if text is not None:
            logger.info("%s: no longer: %s", self.name, text, extra={"action": "watch_mended", "folder": self.name})

    def keep_problems(self, prefix: str, keys: set[str]) -> None:
        """Of the problems whose keys begin so, only these are left."""
        with self._lock:
            gone = [key for key in self._problems if key.startswith(prefix) and key not in keys]
            if gone:
                self._dropped = 0
        for key in gone:
            self.mended(key)

    def document(self) -> dict[str, Any]:
        """For the status."""
        with self._lock:
            problems = list(self._problems.values())
            if self._dropped:
                problems.append(f"and {self._dropped} more")
            return {"state": self._state, **self._facts, "problems": problems}


def write_status(path: Path, document: Mapping[str, Any]) -> None:
    """Replace what `read_status` gives. It holds names of files: nobody else may read it."""
    fresh = path.with_name(path.name + ".new")
    with open(
        os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
    ) as file:
        json.dump(document, file)
    fresh.replace(path)


def read_status(path: Path) -> dict[str, Any] | None:
    """What a watcher said last, with `is_running`; None when there never was one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    return {**document, "is_running": _is_alive(document)}


def _is_alive(document: Mapping[str, Any]) -> bool:
    """Whether the process runs that said it: somebody else may have its number by now."""
    try:
        started = Path(f"/proc/{int(document['pid'])}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    return started == document.get("started")


def own_status(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What this process says of itself."""
    started = None
    with contextlib.suppress(OSError, IndexError):
        started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return {"pid": os.getpid(), "started": started, "at": time.time(), **facts}
