"""A watcher: a thread for each folder, one that publishes, and the journal between them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headrace.bus.network import DIRECT, Network
from headrace.endpoint.errors import WatcherDied
from headrace.endpoint.watch.announcements import Announcer
from headrace.endpoint.watch.folder import FolderWatch
from headrace.endpoint.watch.journal import Journal
from headrace.endpoint.watch.publishing import EventService, Publisher
from headrace.endpoint.watch.report import STATUS_FILE, Report, own_status, write_status
from headrace.endpoint.watch.rules import FolderRule

logger = logging.getLogger(__name__)

JOURNAL_FILE: Final = "journal.sqlite"
_SAY_EVERY_S: Final = 0.5
_END_WITHIN_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherSettings:
    """How a watcher works."""

    url: str
    token: Callable[[], str] = field(repr=False)
    """Asked for each request, so that a token can be replaced."""
    directory: Path
    """Where journal and status lie."""
    sources: Mapping[str, str]
    """The source of the events of each folder, by its name."""
    place: Mapping[str, str]
    """Where the folders lie, for the events' data."""
    rules: Sequence[FolderRule]
    network: Network = DIRECT


class Watcher:
    """Watches folders until it is stopped. Making the object does nothing."""

    def __init__(self, settings: WatcherSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._reports = [Report(rule.name) for rule in settings.rules]
        self._service_report = Report("service")

    def stop(self) -> None:
        """End; what is not announced yet is at the next start."""
        self._stop.set()

    def run(self) -> None:
        """Watch until `stop`. Raises `JournalUnusable`, and `WatcherDied` for what nobody foresaw."""
        settings = self._settings
        settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        service = EventService(settings.url, settings.token, settings.network)
        try:
            with Journal(settings.directory / JOURNAL_FILE) as journal:
                journal.try_refused_again()
                self._run(journal, service)
        finally:
            service.close()

    def _run(self, journal: Journal, service: EventService) -> None:
        publisher = Publisher(journal, service, self._service_report)
        parts: list[tuple[str, Callable[[threading.Event], None]]] = [("publisher", publisher.run)]
        for rule, report in zip(self._settings.rules, self._reports, strict=True):
            announcer = Announcer(rule=rule, source=self._settings.sources[rule.name], place=self._settings.place)
            parts.append((f"folder {rule.name}", FolderWatch(announcer, journal, report, publisher.wake).run))
        # A file server that does not answer holds a thread for ever: nobody waits for these at the end.
        threads = [threading.Thread(target=work, args=(self._stop,), name=name, daemon=True) for name, work in parts]
        for thread in threads:
            thread.start()
        try:
            self._supervise(journal, threads)
        finally:
            self._stop.set()
            publisher.wake()
            until = time.monotonic() + _END_WITHIN_S
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            self._say(journal, {})

    def _supervise(self, journal: Journal, threads: Sequence[threading.Thread]) -> None:
        said: dict[str, Any] = {}
        while not self._stop.is_set():
            said = self._say(journal, said)
            self._stop.wait(_SAY_EVERY_S)
            for thread in threads:
                if not thread.is_alive() and not self._stop.is_set():
                    raise WatcherDied(f"the {thread.name} has ended; its error stands in the log")

    def _say(self, journal: Journal, before: dict[str, Any]) -> dict[str, Any]:
        """Write the status, where it has changed."""
        said = self._status(journal)
        if said != before:
            try:
                write_status(self._settings.directory / STATUS_FILE, own_status(said))
            except OSError as error:
                self._service_report.problem("status", f"the status cannot be written: {error}")
                return before
        return said

    def _status(self, journal: Journal) -> dict[str, Any]:
        waiting, refused, refusal = journal.counts()
        folders = []
        for rule, report in zip(self._settings.rules, self._reports, strict=True):
            standing = journal.standing(rule.name)
            folders.append(
                {
                    "name": rule.name,
                    "folder": rule.folder,
                    "complete": rule.complete,
                    "announced": standing.announced,
                    "last_path": standing.last_path,
                    "last_at": standing.last_at,
                    **report.document(),
                }
            )
        return {
            "service": {"url": self._settings.url, **self._service_report.document()},
            "unpublished": waiting,
            "refused": refused,
            "refusal": refusal,
            "folders": folders,
        }
