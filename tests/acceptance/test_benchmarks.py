"""The benchmark's command: it measures, and what it could not measure it names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_system_is_measured_and_a_peer_that_is_not_there_is_named(tmp_path: Path) -> None:
    only = ["process-pool", "ray", "round_trip", "memory"]
    answer = _benchmark(tmp_path, "--rounds", "1", *(word for name in only for word in ("--only", name)))

    assert answer.returncode == 0, answer.stderr
    assert "not available" in answer.stdout
    assert str(tmp_path / "no-python") in answer.stdout
    document = _latest(tmp_path)
    pool = document["systems"]["process-pool"]
    assert 0 < pool["medians"]["round_trip_p50_ms"] <= pool["medians"]["round_trip_p99_ms"]
    assert pool["problems"] == {}
    assert "no_ops_per_s" not in pool["medians"]
    assert "start" in document["systems"]["ray"]["problems"]
    assert document["machine"]["fsync_ms"] > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [], "files of the run were left behind"


def test_the_parts_are_timed_without_a_server() -> None:
    command = [sys.executable, "-m", "benchmarks.micro", "--only", "turns", "--json"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)

    assert all(each["ns"] > 0 for each in json.loads(answer.stdout))


@pytest.mark.soak  # `make long-haul` is the same command
def test_the_long_haul_can_be_short(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.haul", "--factor", "0.002", "--results", str(tmp_path)]
    answer = subprocess.run(
        [*command, "--only", "stored"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
    (path,) = tmp_path.glob("long-haul-*.json")
    points = json.loads(path.read_text())["points"]
    assert [point["at"] for point in points][-1] == 2_000
    assert all(point["figures"]["per_s"] > 0 for point in points)


def _benchmark(results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.run", "--results", str(results)]
    command += ["--peers", str(results / "no-python"), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def _latest(results: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((results / "latest.json").read_text())
    return document
