"""A publisher under test, as a process of its own: offers numbered events and writes down what was acknowledged.

    python event_publisher.py '{"kind": "batch" | "single" | "http" | "mixed", …}'

Each offer is one event or a batch. Before it is sent its numbers are written, afterwards that it was acknowledged. One
that fails is tried again until it is acknowledged, or given up at once: then it may be there, or not. The process ends
when it has offered `count` events, or the file `stop` appears.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from headrace.schemas import HeadraceError
from headrace.sdk import Client

CAREFUL_SHARE = 0.8
"""Of the offers: they are repeated until they are acknowledged."""
LARGEST_BATCH = 60


class Journal:
    """Lines of JSON that outlive the process which writes them."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **fields: Any) -> None:
        os.write(self._descriptor, (json.dumps({"at": time.time(), **fields}) + "\n").encode())


class Publisher:
    """One publisher and its way to the service."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.directory = Path(settings["directory"])
        self.journal = Journal(self.directory / f"{settings['name']}.offers")
        self.random = random.Random(settings["seed"])  # noqa: S311 - a load, not a secret
        self.client = Client(settings["url"], settings["token"])
        headers = {"Authorization": f"Bearer {settings['token']}", "Content-Type": "application/cloudevents+json"}
        self.http = httpx.Client(base_url=settings["url"], headers=headers, timeout=10, trust_env=False)

    def run(self) -> None:
        number, last = self.settings["first_number"], self.settings["first_number"] + self.settings["count"]
        while number < last and not (self.directory / "stop").exists():
            kind = self.settings["kind"]
            if kind == "mixed":
                kind = self.random.choice(("batch", "single", "http"))
            size = self.random.randint(2, LARGEST_BATCH) if kind == "batch" else 1
            numbers = list(range(number, min(last, number + size)))
            number += len(numbers)
            self.offer(kind, numbers)
            # A rate, so that the load lasts as long as the failures.
            time.sleep(self.settings["pause_s"] * len(numbers))

    def offer(self, kind: str, numbers: list[int]) -> None:
        events = [event(number) for number in numbers]
        careful = self.random.random() < CAREFUL_SHARE
        self.journal.write(offered=numbers)
        while True:
            try:
                self.publish(kind, events)
            except (HeadraceError, httpx.HTTPError) as error:
                self.journal.write(failed=numbers[0], error=str(error)[:200])
                if not careful:
                    return
                time.sleep(0.1)  # a pace for asking again, as a user's program would
                continue
            self.journal.write(acknowledged=numbers[0])
            return

    def publish(self, kind: str, events: list[dict[str, Any]]) -> None:
        match kind:
            case "batch":
                self.client.publish_batch(events)
            case "single":
                self.client.publish(events[0])
            case _:
                self.http.post("/api/v1/events", content=json.dumps(events[0])).raise_for_status()


def event(number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(number),
        "source": "/chaos",
        "type": f"chaos.{'even' if number % 2 == 0 else 'odd'}",
        "data": {"number": number, "rest": number % 20},
    }


if __name__ == "__main__":
    Publisher(json.loads(sys.argv[1])).run()
