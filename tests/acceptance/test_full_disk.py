"""A disk that fills up under a running system. Needs the right to mount a small file system."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from headrace_up import Up, headrace_up
from plain_http import NO_TLS
from waiting import eventually

EVENT = {"specversion": "1.0", "type": "org.example.x", "source": "/test", "data": {"n": 1}}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_nearly_full_disk_refuses_with_a_reason_and_goes_on_once_there_is_room(small_disk: Path) -> None:
    with headrace_up(small_disk / "home", "--no-endpoint") as up:
        assert publish(up, "1").status_code == 202

        with (small_disk / "others").open("wb") as file:
            for _ in range((shutil.disk_usage(small_disk).free - 10_000_000) // 1_000_000):
                file.write(bytes(1_000_000))
        eventually(lambda: "new tasks, results and events are refused until there are" in up.said())
        refused = publish(up, "2")
        assert (refused.status_code, refused.json()["code"]) == (507, "StreamFull")
        assert "the store is full; nothing was stored" in refused.json()["detail"]

        (small_disk / "others").unlink()
        eventually(lambda: publish(up, "2").status_code == 202, within_s=10)
        eventually(lambda: "has room again" in up.said())


def publish(up: Up, event_id: str) -> httpx.Response:
    return httpx.post(
        f"{up.url}/api/v1/events",
        json={**EVENT, "id": event_id},
        headers={"Authorization": f"Bearer {up.token}", "Content-Type": "application/cloudevents+json"},
        timeout=15,
        verify=NO_TLS,
    )
