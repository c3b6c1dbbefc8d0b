"""From a file on an instrument to a result, by an event: nobody calls anything.

The instrument writes a file; a watcher announces it once it is complete; a subscription runs a function with its path.
This is what docs/tutorial/from-file-to-result.md does by hand.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN; and `pip install 'headrace[watch]'`.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instrument import measure
from on_event import DELIVERIES_GROUP
from weather import read_months

from headrace.sdk import Client, NotFound


def warmest_day(path: str) -> dict[str, Any]:
    """Reads the file where it lies."""
    import csv
    import os

    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    warmest = max(rows, key=lambda row: float(row["temp_max"]))
    return {
        "file": os.path.basename(path),
        "days": len(rows),
        "date": warmest["date"],
        "max": float(warmest["temp_max"]),
    }


@contextlib.contextmanager
def watcher(folder: Path, home: Path, source: str) -> Iterator[None]:
    """`headrace watch start` for the folder, as long as the block lasts."""
    command = [sys.executable, "-m", "headrace.cli.main", "watch", "start", str(folder), "--include", "*.csv"]
    command += ["--source", source, "--home", str(home)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def result_for(client: Client, folder: Path, name: str, within_s: float = 30.0) -> Any:
    """What the function gave for a file. Raises `TimeoutError`."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with contextlib.suppress(NotFound):  # nothing was delivered so far
            for task in client.get_task_group(DELIVERIES_GROUP)["tasks"]:
                result = task["result"] if task["state"] == "succeeded" else None
                if isinstance(result, dict) and result.get("file") == name:
                    return result
        time.sleep(0.1)
    raise TimeoutError(f"no result for {folder / name} within {within_s:g} s")


def main() -> None:
    run = uuid.uuid4().hex[:8]
    source = f"/examples/{run}"
    with tempfile.TemporaryDirectory() as directory, Client() as client:
        folder, home = Path(directory) / "detector", Path(directory) / "home"
        folder.mkdir()
        subscription = client.create_subscription(
            {
                "name": f"warmest day {run}",
                "filter": {"exact": {"source": source, "type": "headrace.file.completed"}},
                "function_id": client.register_function(warmest_day),
                "input": {"args": ["{{ event.data.path }}"]},
            }
        )
        try:
            with watcher(folder, home, source):
                for month in read_months()[:3]:
                    path = measure(folder, month)
                    result = result_for(client, folder, path.name)
                    print(
                        f"{path.name}: {result['days']} days, the warmest was {result['date']} with {result['max']} °C"
                    )
        finally:
            client.delete_subscription(subscription["subscription_id"])


if __name__ == "__main__":
    main()
