"""Publishes what is in the outbox: in order, many in one request, for as long as it takes."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from headrace.bus.light_httpx import httpx
from headrace.bus.names import DEFAULT_BUS
from headrace.bus.network import DIRECT, Network
from headrace.endpoint.errors import EventsRefused, RegistrationRefused, ServiceAway
from headrace.endpoint.watch.journal import Journal, Waiting
from headrace.endpoint.watch.report import Report

logger = logging.getLogger(__name__)

_BATCH_TYPE: Final = "application/cloudevents-batch+json"
_MOST_EVENTS: Final = 500
_MOST_BYTES: Final = 2_000_000
_TIMEOUT_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 30.0
_REFUSED_PAUSE_S: Final = 15.0
_ABOUT_EVENTS: Final = frozenset({400, 409, 413, 415, 422})
"""What the service says when it does not like what is in a request, whoever asks and whenever."""


class EventService:
    """The service, as far as events are published there. `token` is asked for each request."""

    def __init__(self, url: str, token: Callable[[], str], network: Network = DIRECT) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._client = httpx.Client(base_url=self.url, timeout=_TIMEOUT_S, **network.http_options(self.url))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def publish(self, bus: str, events: Sequence[bytes]) -> int:
        """Store these events, all of them or none; gives how many were stored before.

        Raises `ServiceAway` when trying again may help, `EventsRefused` when it cannot for these events, and
        `RegistrationRefused` when somebody has to do something first.
        """
        path = "/api/v1/events" if bus == DEFAULT_BUS else f"/api/v1/buses/{bus}/events"
        try:
            answer = self._client.post(
                path,
                content=b"[" + b",".join(events) + b"]",
                headers={"Authorization": f"Bearer {self._token()}", "Content-Type": _BATCH_TYPE},
            )
        except httpx.HTTPError as error:
            raise ServiceAway(f"the service at {self.url} does not answer: {error or type(error).__name__}") from error
        except OSError as error:
            raise ServiceAway(f"the token cannot be read: {error}") from error
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise ServiceAway(f"the service at {self.url} cannot work now: {_detail(answer)}")
        if answer.status_code in _ABOUT_EVENTS:
            raise EventsRefused(_detail(answer), status=answer.status_code)
        if not answer.is_success:
            raise RegistrationRefused(
                f"the service at {self.url} does not let events be published: {_detail(answer)}",
                status=answer.status_code,
            )
        return _duplicates(answer)


class Publisher:
    """Empties the outbox, in a thread of its own."""

    def __init__(self, journal: Journal, service: EventService, report: Report) -> None:
        self._journal = journal
        self._service = service
        self._report = report
        self._woken = threading.Event()
        self._not_before: dict[str, float] = {}
        self._pause_s = _FIRST_PAUSE_S

    def wake(self) -> None:
        """There is something to publish."""
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        """Publish until `stop` is set; then `wake` ends it."""
        self._report.state("ok")
        while not stop.is_set():
            self._woken.clear()
            try:
                pause_s = self._empty(stop)
            except sqlite3.Error as error:
                self._report.problem("journal", f"the journal cannot be used: {error}; trying again")
                pause_s = self._longer_pause()
            self._woken.wait(pause_s)
            if pause_s is not None and not stop.is_set():
                # New events are no reason to ask sooner.
                stop.wait(min(pause_s, _FIRST_PAUSE_S))

    def _empty(self, stop: threading.Event) -> float | None:
        """Publish what can be published; gives when to try again, None when nothing waits."""
        waits: list[float] = []
        for bus in self._journal.buses_waiting():
            wait_s = self._not_before.get(bus, 0.0) - time.monotonic()
            if wait_s <= 0:
                wait_s = self._empty_bus(bus, stop)
            if wait_s > 0:
                waits.append(wait_s)
                self._not_before[bus] = time.monotonic() + wait_s
        self._journal_mended()
        return min(waits, default=None)

    def _journal_mended(self) -> None:
        self._report.mended("journal")

    def _empty_bus(self, bus: str, stop: threading.Event) -> float:
        """0 when nothing waits for this bus any more, else how long to pause."""
        while not stop.is_set() and (waiting := self._journal.waiting(bus, _MOST_EVENTS, _MOST_BYTES)):
            try:
                self._publish(bus, waiting)
            except ServiceAway as error:
                # First why: whoever sees the state finds its reason.
                self._report.problem("service", f"{error}; trying for ever, events wait in the journal")
                self._report.state("away")
                return self._longer_pause()
            except RegistrationRefused as error:
                self._report.problem(f"bus {bus}", f"{error}; trying again, events wait in the journal")
                self._report.state("refused")
                return _REFUSED_PAUSE_S
            self._pause_s = _FIRST_PAUSE_S
            self._report.state("ok")
            self._report.mended("service")
            self._report.mended(f"bus {bus}")
        return 0.0

    def _publish(self, bus: str, waiting: Sequence[Waiting]) -> None:
        try:
            self._service.publish(bus, [each.event for each in waiting])
        except EventsRefused as error:
            if len(waiting) > 1:
                # One of them: the others shall not wait for it.
                half = len(waiting) // 2
                self._publish(bus, waiting[:half])
                self._publish(bus, waiting[half:])
                return
            self._journal.refused(waiting[0].number, str(error))
            logger.error(
                "The service does not take the event about %s: %s. It stays in the journal, and is tried again at the"
                " next start.",
                _subject(waiting[0].event),
                error,
                extra={"action": "event_refused"},
            )
        else:
            self._journal.published([each.number for each in waiting])

    def _longer_pause(self) -> float:
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, _LONGEST_PAUSE_S)
        # Many watchers shall not come back in one moment.
        return pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - no secret


def _duplicates(answer: httpx.Response) -> int:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return sum(bool(each["duplicate"]) for each in answer.json()["events"])
    return 0


def _subject(event: bytes) -> str:
    return str(json.loads(event).get("subject"))


def _detail(answer: httpx.Response) -> str:
    try:
        body: Any = answer.json()
        places = "".join(f"; {each['pointer']}: {each['problem']}" for each in (body.get("errors") or ())[:5])
        return f"{body['detail']}{places} (HTTP {answer.status_code})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{answer.reason_phrase} (HTTP {answer.status_code})"
