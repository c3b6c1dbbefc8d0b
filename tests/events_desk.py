"""Publishing, subscribing and looking at what ran, for tests: a function that leaves a line for each of its runs."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from waiting import eventually

CLOUDEVENT = {"Content-Type": "application/cloudevents+json"}

NOTES = """
import json, time
def note(path, *args, fail=0, **kwargs):
    line = json.dumps([time.time(), args, kwargs]) + "\\n"
    with open(path, "ab", buffering=0) as file:
        file.write(line.encode())  # in one piece: another worker may write at the same time
    with open(path) as file:
        runs = len(file.readlines())
    if runs <= fail:
        raise ValueError(f"run {runs} fails")
    return runs
"""

FLOW_NOTES = """
import json, os, time
def work(path, events, seconds=0, bad=(), gate="", report=None):
    events = events if isinstance(events, list) else [events]
    names = [event["id"] for event in events]
    def note(what):
        with open(path, "ab", buffering=0) as file:
            file.write((json.dumps([time.time(), what, names]) + "\\n").encode())
    note("begin")
    time.sleep(seconds)  # the work
    deadline = time.time() + 20
    while gate and not os.path.exists(gate) and time.time() < deadline:
        time.sleep(0.01)  # until the test opens the gate
    failing = [name for name in names if name in bad]
    note("failed" if failing else "end")
    if failing and report:
        return {"batchItemFailures": [{"itemIdentifier": name} for name in failing]}
    if failing:
        raise ValueError(f"poison: {failing}")
    return None
"""
"""A line for each beginning and each end of a call with one or more events; those named `bad` fail."""


@dataclass
class Notes:
    """What one function noted: a line per run."""

    path: Path

    @property
    def runs(self) -> list[Any]:
        """[time, args, kwargs] of each run."""
        # Only whole lines: the last one may be on its way.
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]

    @property
    def args(self) -> list[Any]:
        """The arguments of each run, after the path."""
        return [args for _, args, _ in self.runs]

    def wait(self, count: int, within_s: float = 10.0) -> list[Any]:
        """The arguments, once there are so many runs."""
        eventually(lambda: len(self.runs) >= count, within_s, f"{count} runs in {self.path.name}")
        return self.args


@dataclass
class EventsDesk:
    """One user's view of events. `function` and `endpoint` are ids."""

    http: httpx.Client
    directory: Path
    function: str
    endpoint: str
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def notes(self) -> Notes:
        """A new place for notes."""
        return Notes(self.directory / f"notes-{next(self._numbers)}")

    def publish(self, kind: str, event_id: str, **more: Any) -> dict[str, Any]:
        """Publish an event of a source of its kind's own; the service's answer."""
        event = {"id": event_id, "source": f"/test/{kind}", "specversion": "1.0", "type": kind, **more}
        answer = self.http.post("/api/v1/events", content=json.dumps(event), headers=CLOUDEVENT)
        assert answer.status_code == 202, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def subscribe(self, kind: str, notes: Notes, *args: Any, kwargs: Any = None, **more: Any) -> str:
        """Let events of a type run the noting function; the subscription's id."""
        body = {
            "filter": {"exact": {"type": kind}},
            "function_id": self.function,
            "endpoint_id": self.endpoint,
            "input": {"args": [str(notes.path), *(args or ("{{ event.id }}",))], "kwargs": kwargs or {}},
            **more,
        }
        answer = self.http.post("/api/v1/subscriptions", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["subscription_id"])

    def unsubscribe(self, subscription_id: str) -> None:
        """Delete a subscription."""
        answer = self.http.delete(f"/api/v1/subscriptions/{subscription_id}")
        assert answer.status_code == 204, answer.text

    def dead_letters(self, subscription_id: str) -> list[dict[str, Any]]:
        """The dead letters of a subscription, newest first."""
        answer = self.http.get("/api/v1/dead-letters", params={"subscription_id": subscription_id})
        assert answer.status_code == 200, answer.text
        letters: list[dict[str, Any]] = answer.json()["dead_letters"]
        return letters

    def dead_letter(self, subscription_id: str, within_s: float = 10.0) -> dict[str, Any]:
        """The one dead letter of a subscription, once it is there."""
        letters = eventually(lambda: self.dead_letters(subscription_id), within_s, "a dead letter")
        assert letters is not None
        assert len(letters) == 1
        return letters[0]
