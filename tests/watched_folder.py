"""A folder that is watched by a thread of the test's, for tests of what a watcher takes for complete."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waiting import eventually

from headrace.endpoint.watch.announcements import Announcer
from headrace.endpoint.watch.folder import FolderWatch
from headrace.endpoint.watch.journal import Journal
from headrace.endpoint.watch.report import Report
from headrace.endpoint.watch.rules import FolderRule


@dataclass
class Watched:
    """What was announced of a folder, since the journal began."""

    journal: Journal
    report: Report
    _folder: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events, in the order in which they were announced. Nobody publishes them."""
        return [json.loads(each.event) for each in self.journal.waiting("default", 10_000, 10**9)]

    @property
    def subjects(self) -> list[str]:
        """Which files they are about."""
        return [event["subject"] for event in self.events]

    def wait(self, *subjects: str, within_s: float = 20.0) -> list[dict[str, Any]]:
        """The events, once they are about just these files, in whatever order."""
        eventually(lambda: len(self.subjects) >= len(subjects), within_s, f"events about {subjects}")
        assert sorted(self.subjects) == sorted(subjects)
        return self.events

    def settled(self) -> None:
        """Wait until all that is there was looked at, and nothing is left that may become an event."""
        fence = self._folder / "fence"
        before = self.subjects.count("fence")
        fence.write_text(str(before))
        eventually(lambda: self.subjects.count("fence") > before, 20, "the file that was written last is announced")

    def is_(self, state: str) -> bool:
        """Whether the watcher says so of the folder."""
        return bool(self.report.document()["state"] == state)


@contextlib.contextmanager
def watched(folder: Path, journal: Path, **rule: Any) -> Iterator[Watched]:
    """Watch a folder, with the keys of a rule."""
    found = FolderRule.of_document({"folder": str(folder), "name": "scope", "stable_s": 0.05, **rule})
    announcer = Announcer(rule=found, source="/test/scope", place={"host": "here"})
    report, stop = Report("scope"), threading.Event()
    with Journal(journal) as open_journal:
        watch = FolderWatch(announcer, open_journal, report, lambda: None)
        thread = threading.Thread(target=watch.run, args=(stop,), name="watch")
        thread.start()
        try:
            yield Watched(open_journal, report, folder)
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()
