"""Two gigabytes to a worker and back through `headrace up`, with the peak of memory of every process on the way.

Run by `make large`; LARGE_BYTES is how much goes each way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from headrace_up import Up, command_line, headrace_up

LARGE_BYTES = int(os.environ.get("LARGE_BYTES", str(2_000_000_000)))
MB = 1_000_000
_PARTS = {
    "nats-server": "NATS server",
    "headrace.endpoint.worker": "worker",
    "headrace.endpoint.pool": "pool",
    "headrace.cli.main endpoint": "manager",
    "headrace.cli.main serve": "service",
}

CLIENT = """
import hashlib, json, os, sys, time
from headrace.sdk import Executor

def changed(data):
    data[0] ^= 1
    return data

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

size = int(sys.argv[1])
data = bytearray(os.urandom(1_000_003)) * (size // 1_000_003)
size = len(data)
digest = hashlib.sha256(bytes([data[0] ^ 1])); digest.update(memoryview(data)[1:])
with Executor() as executor:
    assert executor.submit(changed, bytearray(1)).result(60) == b"\\x01"
    before, began = peak(), time.monotonic()
    future = executor.submit(changed, data)
    submitted = time.monotonic()
    del data
    result = future.result(1500)
    ended = time.monotonic()
    assert len(result) == size and hashlib.sha256(result).digest() == digest.digest()
    times = future.times
print(json.dumps({
    "size": size, "before": before, "peak": peak(), "submit_s": submitted - began, "all_s": ended - began,
    "uploaded_s": times.stored_at - times.submitted_at, "fetched_s": times.started_at - times.stored_at,
    "run_s": times.ended_at - times.started_at, "kept_s": times.result_stored_at - times.ended_at,
    "delivered_s": time.time() - times.result_stored_at,
}))
"""


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_two_gigabytes_go_there_and_back_in_bounded_memory(tmp_path: Path) -> None:
    with headrace_up(tmp_path / "home", "--workers", "1") as up:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, str(LARGE_BYTES)],
            env={**os.environ, **up.environment, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peaks = memory_peaks(up)
    told = json.loads(done.stdout)
    report(told, peaks)
    size = told["size"]
    assert told["peak"] < told["before"] + size + 200 * MB
    assert peaks["worker"] < size + 200 * MB
    assert peaks["pool"] < 200 * MB
    assert peaks["service"] < 300 * MB
    assert peaks["NATS server"] < 1000 * MB


def memory_peaks(up: Up) -> dict[str, int]:
    """The most memory that each part has had so far, in bytes."""
    peaks: dict[str, int] = {}
    for pid in up.pids():
        line = command_line(pid)
        part = next((part for words, part in _PARTS.items() if words in line), "")
        for entry in Path(f"/proc/{pid}/status").read_text().splitlines():
            if part and entry.startswith("VmHWM"):
                peaks[part] = max(peaks.get(part, 0), int(entry.split()[1]) * 1024)
    return peaks


def report(told: dict[str, float], peaks: dict[str, int]) -> None:
    """Print the figures."""
    lines = [
        f"{told['size'] / MB:.0f} MB there and back in {told['all_s']:.1f} s, fsync before every acknowledgement:",
        *(f"  {name:12}{told[name]:8.1f}" for name in told if name.endswith("_s") and name != "all_s"),
        "Peaks of memory (VmHWM), in MB:",
        f"  {'client':12}{told['peak'] / MB:8.0f}  ({told['before'] / MB:.0f} with the argument alone)",
        *(f"  {part:12}{peak / MB:8.0f}" for part, peak in sorted(peaks.items())),
    ]
    print("\n" + "\n".join(lines))  # noqa: T201 - what it is run for
