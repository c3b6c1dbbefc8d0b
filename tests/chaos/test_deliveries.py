"""Events in a system that is killed whole, pools among it: none is lost, and what fails ends among the dead letters."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chaos.system_under_fire import SystemUnderFire
from events_desk import EventsDesk
from plain_http import NO_TLS
from waiting import eventually

EVERY_FAILING = 10
ATTEMPTS = 3

NOTE = """
def note(path, number):
    with open(path, "a") as file:
        file.write(f"[0, [{number}], {{}}]\\n")
    if number % 10 == 3:
        raise ValueError(number)
"""


class Publisher:
    """Publishes numbered events, each again until it is answered, as a careful publisher does."""

    def __init__(self, system: SystemUnderFire, directory: Path) -> None:
        self._system = system
        with self._http() as http:
            body = {"name": "note", "source": NOTE, "python_version": "3.11"}
            function = http.post("/api/v1/functions", json=body).json()["function_id"]
            desk = EventsDesk(http, directory, function, system.up.endpoint_id)
            self._notes = desk.notes()
            retry = {"max_attempts": ATTEMPTS, "first_delay_s": 0.3, "factor": 1}
            self.subscription = desk.subscribe("numbered", self._notes, "{{ event.data }}", retry=retry)
        self.count = 0
        self._stop = threading.Event()

    @property
    def effects(self) -> Counter[int]:
        """How often the function ran for each number."""
        return Counter(args[0] for args in self._notes.args)

    @property
    def expected(self) -> Counter[int]:
        """The same, when everything has one effect."""
        return Counter({n: ATTEMPTS if n % EVERY_FAILING == 3 else 1 for n in range(self.count)})

    def dead_letters(self) -> list[dict[str, Any]]:
        """What was given up; nothing while the service is away."""
        try:
            with self._http() as http:
                letters: list[dict[str, Any]] = http.get("/api/v1/dead-letters?limit=1000").json()["dead_letters"]
                return letters
        except (httpx.HTTPError, KeyError):
            return []

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish until the end of the block."""
        thread = threading.Thread(target=self._publish, name="publisher")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30)

    def _publish(self) -> None:
        http = self._http()
        while not self._stop.is_set():
            event = {"id": str(self.count), "source": "/chaos", "specversion": "1.0", "type": "numbered"}
            headers = {"Content-Type": "application/cloudevents+json"}
            with contextlib.suppress(httpx.HTTPError):
                answer = http.post("/api/v1/events", json={**event, "data": self.count}, headers=headers)
                self.count += answer.status_code == 202
            self._stop.wait(0.005)
        http.close()

    def _http(self) -> httpx.Client:
        up = self._system.up
        headers = {"Authorization": f"Bearer {up.token}"}
        return httpx.Client(base_url=up.url, headers=headers, timeout=20, trust_env=False, verify=NO_TLS)


def check_dead_letters(publisher: Publisher) -> None:
    """Each failing event has one dead letter, with every attempt."""
    failing = sorted(n for n in range(publisher.count) if n % EVERY_FAILING == 3)
    eventually(lambda: len(publisher.dead_letters()) >= len(failing), 60, "all dead letters")
    letters = publisher.dead_letters()
    assert sorted(letter["event"]["data"] for letter in letters) == failing
    for letter in letters:
        assert letter["code"] == "AttemptsExhausted"
        assert [each["attempt"] for each in letter["attempts"]] == list(range(1, ATTEMPTS + 1))


@pytest.mark.timeout(180)
def test_a_system_that_is_killed_whole_loses_no_event(tmp_path: Path) -> None:
    with SystemUnderFire(tmp_path, seed=2, workers=2) as system:
        publisher = Publisher(system, tmp_path)
        with publisher.publishing():
            for kill in (system.kill_pool, system.kill_everything, system.kill_manager):
                _after_some_events(publisher, kill)
            _after_some_events(publisher, lambda: None)
        eventually(lambda: not publisher.expected - publisher.effects, 60, "everything ran")
        check_dead_letters(publisher)
        # What had run, and was not stored yet when its pool died, runs again: once for each of the three kills.
        repeated = publisher.effects - publisher.expected
        assert all(count <= 3 for count in repeated.values()), repeated


def _after_some_events(publisher: Publisher, kill: Callable[[], object]) -> None:
    before = publisher.count
    eventually(lambda: publisher.count >= before + 40, 40, "events are published")
    kill()
