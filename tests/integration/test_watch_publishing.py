"""How a watcher empties its outbox: many at a time, and what is refused holds nothing up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from service import RunningService
from waiting import eventually

from headrace.endpoint.watch.completeness import Seen
from headrace.endpoint.watch.journal import Journal, Noted
from headrace.endpoint.watch.publishing import EventService, Publisher
from headrace.endpoint.watch.report import Report


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


def put(journal: Journal, bus: str, *events: bytes) -> None:
    """Put events into the outbox, as of files that are complete."""
    noted = [Noted(f"{number}.tif", Seen(1, number, 1), None, 1, event) for number, event in enumerate(events)]
    journal.note("scope", bus, "", noted)


def event(number: int, source: str) -> bytes:
    return json.dumps({"specversion": "1.0", "id": str(number), "source": source, "type": "test.file"}).encode()


def test_what_is_refused_holds_nothing_up(service: RunningService, journal: Journal) -> None:
    good = [event(number, "/test/outbox") for number in range(1200)]
    put(journal, "default", *good[:700], b'{"specversion": "1.0"}', *good[700:])
    put(journal, "nowhere", good[0])
    report, stop = Report("service"), threading.Event()
    events = EventService(service.url, lambda: service.token)
    publisher = Publisher(journal, events, report)
    thread = threading.Thread(target=publisher.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: journal.counts()[:2] == (1, 1), 20, "all but two are published")
        assert "(HTTP 4" in str(journal.counts()[2])
        eventually(lambda: report.document()["problems"])
        assert "there is no bus 'nowhere'" in report.document()["problems"][0]
        # What comes later does not wait for these two, and they are not asked for again and again.
        put(journal, "default", event(5000, "/test/outbox"))
        publisher.wake()
        eventually(lambda: journal.counts()[:2] == (1, 1), 20)
        found = service.http().get("/api/v1/events", params={"limit": 1}).json()["events"][0]
        assert found["sequence"] == 1201
    finally:
        stop.set()
        publisher.wake()
        thread.join(20)
        events.close()


def test_a_wrong_token_is_said_and_nothing_is_lost(service: RunningService, journal: Journal, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hr_wrong")
    put(journal, "default", event(1, "/test/token"))
    report, stop = Report("service"), threading.Event()
    events = EventService(service.url, token.read_text)
    publisher = Publisher(journal, events, report)
    thread = threading.Thread(target=publisher.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: report.document()["state"] == "refused", 20)
        assert journal.counts() == (1, 0, None)
        assert "hr_wrong" not in str(report.document())
    finally:
        stop.set()
        publisher.wake()
        thread.join(20)
        events.close()
