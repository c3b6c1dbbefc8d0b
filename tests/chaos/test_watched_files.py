"""Watchers and services are killed while instruments write: no file is missing, none told twice, none too early.

A long run only: `make chaos`, with CHAOS_SECONDS and CHAOS_SEED. A short story is in tests/integration/test_watcher.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chaos.instruments import Instruments
from headrace_up import Up, headrace_up
from waiting import eventually, let_pass

from headrace.endpoint.watch.report import read_status


@contextlib.contextmanager
def watching(up: Up, folder: Path, home: Path, log: Path, *options: str) -> Iterator[None]:
    """A watcher that is killed at the end."""
    words = ["watch", "start", str(folder), "--name", "scope", "--stable", "0.1", "--source", "/chaos/scope"]
    with (
        log.open("ab") as said,
        subprocess.Popen(
            [sys.executable, "-m", "headrace.cli.main", *words, "--home", str(home), *options],
            env={**os.environ, **up.environment},
            stderr=said,
        ) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def stored(up: Up) -> list[dict[str, Any]]:
    """All events of the watcher."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 500}
    with httpx.Client(base_url=up.url, headers={"Authorization": f"Bearer {up.token}"}, timeout=20) as http:
        while True:
            page = http.get("/api/v1/events", params=query).json()
            found += [each["event"] for each in page["events"] if each["event"]["source"] == "/chaos/scope"]
            if page["next"] is None:
                return found
            query["before"] = page["next"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", [(), ("--poll-every", "0.3")], ids=["told by the kernel", "looking"])
def test_every_file_is_announced_once_whoever_is_killed(tmp_path: Path, options: tuple[str, ...]) -> None:
    seconds = float(os.environ.get("CHAOS_SECONDS", "180")) / 4
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(1 << 30)))  # noqa: S311 - a repeatable misfortune
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    luck = random.Random(seed)  # noqa: S311 - likewise
    folder, home, log = tmp_path / "scope", tmp_path / "watcher", tmp_path / "watcher.log"
    folder.mkdir()
    kills = 0
    with headrace_up(tmp_path / "home", "--no-endpoint", "--durability", "relaxed") as up:
        with Instruments(folder, seed) as instruments:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                with watching(up, folder, home, log, *options):
                    let_pass(0.3 + luck.random() * 4, "the moment of its death is any")
                kills += 1
                if luck.random() < 0.3:
                    let_pass(luck.random() * 2, "nobody watches")
                if luck.random() < 0.3:
                    os.kill(up.pid_of("cli.main serve"), signal.SIGKILL)
        with watching(up, folder, home, log, *options):
            eventually(lambda: set(instruments.left.items()) <= told(stored(up)), 60, "all that is there is announced")
            eventually(lambda: is_done(home), 60, "and nothing more comes")
            events = stored(up)
    print(f"{kills} watchers killed, {len(events)} events of {len(instruments.complete)} files")  # noqa: T201 - shown in a long run, and when it fails
    assert len({event["id"] for event in events}) == len(events)
    early = [event for event in events if event["data"]["size"] not in instruments.complete[event["subject"]]]
    assert early == []
    assert "Traceback" not in log.read_text()


def told(events: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """Files with the sizes that were announced."""
    return {(event["subject"], event["data"]["size"]) for event in events}


def is_done(home: Path) -> bool:
    """Whether the watcher has nothing left to look at, and nothing to publish."""
    said = read_status(home / "watch" / "scope" / "status.json")
    return bool(said and said["is_running"] and not said["unpublished"] and not said["folders"][0].get("candidates", 1))
