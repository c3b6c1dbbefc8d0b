"""One watched folder: what changes becomes a candidate, a candidate that is complete is announced."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from headrace.endpoint.errors import FolderAway
from headrace.endpoint.watch.announcements import Announcer
from headrace.endpoint.watch.candidates import Candidates
from headrace.endpoint.watch.completeness import Seen
from headrace.endpoint.watch.files import look
from headrace.endpoint.watch.filesystems import file_system_of
from headrace.endpoint.watch.journal import Journal, Known, Noted
from headrace.endpoint.watch.notices import KernelNotices, NoNotices, Notices
from headrace.endpoint.watch.paths import is_within, joined, parent
from headrace.endpoint.watch.report import Report
from headrace.endpoint.watch.selection import Selection
from headrace.endpoint.watch.tree import Listing, Tree

logger = logging.getLogger(__name__)

_RETRY_S: Final = 2.0
_LONGEST_LOOK_S: Final = 1.0
"""How soon it is noticed that the folder is not what it was."""
_SCAN_SHARE: Final = 10
_LEAST_BETWEEN_S: Final = 0.05
"""A scan that takes long comes seldom: at most a tenth of the time goes into scans."""
_MOST_ROUNDS: Final = 5
_HEAR_AGAIN_S: Final = 60.0
_KEEP_EVERY_S: Final = 3600.0
_BURST: Final = 4096
"""So many paths at once may be more than the kernel has kept (`fs.inotify.max_queued_events`, mostly 16 384)."""
_AFTER_BURST_S: Final = 2.0


class FolderWatch:
    """Watches one folder, in a thread of its own. `wake` is called when there is something to publish."""

    def __init__(self, announcer: Announcer, journal: Journal, report: Report, wake: Callable[[], None]) -> None:
        self._announcer = announcer
        self._rule = announcer.rule
        self._journal = journal
        self._report = report
        self._wake = wake

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set. What goes wrong is reported, and tried again."""
        while not stop.is_set():
            try:
                _Watch(self._announcer, self._journal, self._report, self._wake, stop).go_on()
            except FolderAway as error:
                self._lost("away", str(error))
            except OSError as error:
                self._lost("failed", f"{self._rule.folder} cannot be watched: {error}")
            except sqlite3.Error as error:
                # A full disk, most likely. What was not noted is found again.
                self._lost("failed", f"the journal cannot be written: {error}")
            stop.wait(_RETRY_S)

    def _lost(self, state: str, problem: str) -> None:
        # First why: whoever sees the state finds its reason.
        self._report.problem("folder", f"{problem}; trying again")
        self._report.state(state, candidates=0)


class _Watch:
    """The folder as long as it is the same one. Making the object raises `FolderAway` when there is none."""

    def __init__(
        self,
        announcer: Announcer,
        journal: Journal,
        report: Report,
        wake: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self._announcer = announcer
        self._rule = rule = announcer.rule
        self._journal = journal
        self._report = report
        self._wake = wake
        self._stop = stop
        self._identity = self._found()
        system = file_system_of(rule.folder)
        self._device = str(system)
        self._selection = Selection(rule)
        self._tree = Tree(
            folder=rule.folder,
            selection=self._selection,
            follow=rule.follow_symlinks,
            inodes=system.has_lasting_inodes,
        )
        self._candidates = Candidates(announcer, self._tree, report, stop)
        self._directories: dict[str, tuple[int, int]] = {}
        self._remembered = set(journal.directories(rule.name))
        """Directories of which files are remembered, or may be."""
        self._is_elsewhere = False
        self._keep_at = 0.0
        self._hear_again = 0.0
        self._not_before = 0.0
        self._skips = not journal.begin_folder(rule.name, rule.folder) and rule.existing == "skip"
        self._notices: Notices = KernelNotices() if rule.poll == "auto" and system.tells_of_changes else NoNotices()

    def go_on(self) -> None:
        """Watch until it is told to stop. Raises `OSError` and `sqlite3.Error`."""
        try:
            self._report.mended("folder")
            next_scan = time.monotonic()
            while not self._stop.is_set():
                if self._found() != self._identity:
                    raise FolderAway(f"{self._rule.folder} is another folder now")
                if time.monotonic() >= next_scan:
                    next_scan = self._scan()
                self._announce()
                if self._candidates.has_room_for_others():
                    next_scan = time.monotonic()
                self._say()
                now = time.monotonic()
                timeout_s = min(self._candidates.next_s(now), max(0.0, next_scan - now), _LONGEST_LOOK_S)
                paths = self._notices.wait(timeout_s, self._stop)
                if paths is None:
                    self._directories = {}
                    next_scan = min(next_scan, max(time.monotonic(), self._not_before))
                    continue
                self._take_notices(paths)
                if len(paths) >= _BURST:
                    next_scan = min(next_scan, time.monotonic() + _AFTER_BURST_S)
        finally:
            self._notices.close()

    @property
    def _is_deaf(self) -> bool:
        return isinstance(self._notices, NoNotices) or self._notices.problem is not None

    def _say(self) -> None:
        if self._notices.problem is not None:
            every_s = self._rule.poll_every_s
            self._report.problem("notices", f"{self._notices.problem}; looking every {every_s:g} s")
        else:
            self._report.mended("notices")
        self._report.state("polling" if self._is_deaf else "watching", candidates=len(self._candidates))

    def _found(self) -> tuple[int, int]:
        folder = self._announcer.rule.folder
        try:
            found = os.stat(folder)
        except OSError as error:
            raise FolderAway(f"{folder} is not there: {error.strerror}") from error
        return found.st_dev, found.st_ino

    # What is there

    def _scan(self) -> float:
        """Look at everything; gives when to do so again."""
        began = time.monotonic()
        if self._notices.problem is not None and began >= self._hear_again:
            # There may be room for us by now.
            self._hear_again, self._directories = began + _HEAR_AGAIN_S, {}
        troubled: dict[str, str] = {}
        found = self._look_from([""], troubled)
        if self._stop.is_set():
            return began
        if "" in troubled:
            raise FolderAway(troubled[""])
        for path, problem in troubled.items():
            self._report.problem(f"path {path}", problem)
        self._report.keep_problems("path ", {f"path {path}" for path in troubled})
        self._directories = {path: identity for path, identity in self._directories.items() if path in found}
        self._note_lost_directories(found, troubled)
        self._keep_journal()
        self._skips = False
        now = time.monotonic()
        self._not_before = now + max(_LEAST_BETWEEN_S, (now - began) * _SCAN_SHARE)
        every_s = self._rule.poll_every_s if self._is_deaf else self._rule.scan_every_s
        return max(now + every_s, self._not_before)

    def _keep_journal(self) -> None:
        """What takes the journal longer the more it holds: after the first scan, and each hour."""
        now = time.monotonic()
        if now < self._keep_at and not self._is_elsewhere:
            return
        self._keep_at = now + _KEEP_EVERY_S
        self._journal.all_known(self._rule.name)
        self._journal.forget_gone(self._rule.name)
        before = self._journal.seen_elsewhere(self._rule.name, self._device)
        self._is_elsewhere = before is not None
        if before is None:
            self._report.mended("mount")
        else:
            problem = f"none of its files is here on {self._device}; they were on {before}: is it mounted?"
            self._report.problem("mount", problem)

    def _look_from(self, roots: Iterable[str], troubled: dict[str, str]) -> set[str]:
        """Take what lies below these, and hear of each directory before it is looked at for the last time: nothing
        comes in between. Gives the directories that are there."""
        everything: set[str] = set()
        for _ in range(_MOST_ROUNDS):
            found: dict[str, tuple[int, int]] = {}
            for root in roots:
                for listing in self._tree.walk(root, troubled.__setitem__):
                    if self._stop.is_set():
                        return everything
                    found[listing.directory] = listing.identity
                    self._take(listing)
            everything |= found.keys()
            self._remembered |= found.keys()
            fresh = {path for path, identity in found.items() if self._directories.get(path) != identity}
            self._directories |= found
            if not fresh:
                break
            self._notices.watch(map(self._tree.absolute, self._directories))
            if isinstance(self._notices, NoNotices):
                break
            roots = [path for path in fresh if not path or parent(path) not in fresh]
        return everything

    def _take(self, listing: Listing) -> None:
        known = self._journal.known(self._rule.name, listing.directory)
        noted = []
        for name, seen in listing.files.items():
            path = joined(listing.directory, name)
            markers = self._selection.markers
            marker_ns = None if markers is None else listing.markers.get(markers.marker_of(name))
            noted += self._judge(path, seen, known.get(name), marker_ns)
        noted += self._gone(
            (joined(listing.directory, name), each) for name, each in known.items() if name not in listing.names
        )
        self._note(noted)

    def _judge(self, path: str, seen: Seen, known: Known | None, marker_ns: int | None) -> list[Noted]:
        """Make a file a candidate if it is new, or has changed; gives what is to be noted at once."""
        if known is not None and _is_same(known, seen, self._device):
            self._candidates.drop(path)
            as_known = (known.seen, known.device, known.is_gone) == (seen, self._device, False)
            return [] if as_known else [Noted(path, seen, known.marker_ns, known.version, None)]
        if self._skips:
            return [Noted(path, seen, marker_ns, 0, None)]
        if self._selection.markers is not None and (
            marker_ns is None or (known is not None and not known.is_gone and known.marker_ns == marker_ns)
        ):
            # Not marked, or only its version before was.
            self._candidates.drop(path)
            return []
        self._candidates.add(path, seen, marker_ns, 1 if known is None else known.version + 1)
        return []

    def _gone(self, missing: Iterable[tuple[str, Known]]) -> list[Noted]:
        """What is to be noted of files that are not there. What was seen on another file system may be there still."""
        gone = [(path, known) for path, known in missing if not known.is_gone and known.device == self._device]
        if gone and self._found() != self._identity:
            raise FolderAway(f"{self._rule.folder} is another folder now")
        return [
            Noted(path, known.seen, known.marker_ns, known.version, self._event_of_gone(path, known), is_gone=True)
            for path, known in gone
        ]

    def _event_of_gone(self, path: str, known: Known) -> bytes | None:
        return self._announcer.deleted(path, known.seen, known.version) if self._rule.deleted else None

    def _note_lost_directories(self, found: set[str], troubled: dict[str, str]) -> None:
        for directory in self._remembered - found:
            if any(is_within(directory, path) for path in troubled):
                continue
            if os.path.lexists(self._tree.absolute(directory)):
                # It does not count any more, or came back just now.
                continue
            self._remembered.discard(directory)
            known = self._journal.known(self._rule.name, directory)
            self._note(self._gone((joined(directory, name), each) for name, each in known.items()))

    # What is told

    def _take_notices(self, paths: set[str]) -> None:
        roots, marked = set[str](), set[str]()
        for whole in paths:
            path = os.path.relpath(whole, self._rule.folder)
            if path == "." or path.startswith("../"):
                continue
            if os.path.isdir(whole) and (self._rule.follow_symlinks or not os.path.islink(whole)):
                if self._selection.enters(path):
                    roots.add(path)
            elif self._selection.markers is not None and self._selection.markers.is_marker(os.path.basename(path)):
                marked.add(parent(path))
            elif self._selection.takes(path):
                self._consider(path)
        if roots:
            # It may have been another directory of that name that was heard of.
            for root in roots:
                self._directories = {
                    path: each for path, each in self._directories.items() if not is_within(path, root)
                }
            self._look_from(roots, {})
        for directory in marked:
            for listing in self._tree.walk(directory, lambda path, problem: None, alone=True):
                self._take(listing)

    def _consider(self, path: str) -> None:
        whole = self._tree.absolute(path)
        known = self._journal.known_file(self._rule.name, path)
        try:
            seen = look(whole, follow=self._tree.follow, inodes=self._tree.inodes)
        except OSError as error:
            self._report.problem(f"path {path}", f"{whole} cannot be looked at: {error.strerror or error}")
            return
        if seen is not None:
            marker_ns = self._marker_ns(path)
            self._note(self._judge(path, seen, known, marker_ns))
        elif known is not None and not os.path.lexists(whole):
            self._note(self._gone([(path, known)]))

    def _marker_ns(self, path: str) -> int | None:
        markers = self._selection.markers
        if markers is None:
            return None
        marker = joined(parent(path), markers.marker_of(os.path.basename(path)))
        try:
            found = look(self._tree.absolute(marker), follow=self._tree.follow, inodes=False)
        except OSError:
            return None
        return None if found is None else found.mtime_ns

    # What is complete

    def _announce(self) -> None:
        while complete := self._candidates.complete():
            self._note(complete)
            for each in complete:
                self._candidates.drop(each.path)

    def _note(self, noted: list[Noted]) -> None:
        if not noted:
            return
        self._journal.note(self._rule.name, self._rule.bus, self._device, noted)
        if any(each.event is not None for each in noted):
            self._wake()


def _is_same(known: Known, seen: Seen, device: str) -> bool:
    """Whether this version is known. On another file system a copy of it has another inode."""
    if known.seen == seen:
        return True
    is_elsewhere = known.device != device or 0 in (known.seen.inode, seen.inode)
    return is_elsewhere and (known.seen.size, known.seen.mtime_ns) == (seen.size, seen.mtime_ns)
