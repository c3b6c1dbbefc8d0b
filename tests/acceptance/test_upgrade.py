"""Homes that earlier releases left behind, with tasks queued, are taken over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from headrace_up import headrace_up
from home_fixture import HOMES

from headrace.sdk import Client

WITHIN_S = 40.0


@pytest.mark.parametrize("name", sorted(path.stem for path in HOMES.glob("*.tar")))
def test_a_home_of_an_earlier_release_goes_on(name: str, tmp_path: Path) -> None:
    known, home = json.loads((HOMES / f"{name}.json").read_text()), tmp_path / "home"
    command = [sys.executable, "-m", "headrace.cli.main", "restore", str(HOMES / f"{name}.tar"), "--home", str(home)]
    subprocess.run(command, check=True, capture_output=True, timeout=WITHIN_S)
    with headrace_up(home, "--workers", "1", within_s=WITHIN_S) as up, Client(up.url, up.token) as client:
        assert up.endpoint_id == known["endpoint"]
        with Client(up.url, known["token"]) as ada:
            assert ada.whoami()["principal"] == known["user"]
        assert "2 * x" in client.get_function(known["function"])["source"]
        for number, task_id in enumerate(known["queued"]):
            task = client.get_task(task_id, wait_s=WITHIN_S)
            # Queued for longer than a month, it ends too, but not so well.
            assert task.get("result") == 2 * number or "expired long ago" in task["error"]["message"]
        again = client.submit(up.endpoint_id, known["function"], [21])
        assert client.get_result(again, wait_s=WITHIN_S) == 42
