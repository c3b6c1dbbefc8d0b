"""The files of a folder that are not announced yet, and when to look at each of them again."""

from __future__ import annotations

import heapq
import threading
import time
from dataclasses import dataclass
from typing import Final

from headrace.endpoint.watch.announcements import Announcer
from headrace.endpoint.watch.completeness import Candidate, Seen
from headrace.endpoint.watch.files import look, look_inside, sha256_of
from headrace.endpoint.watch.journal import Noted
from headrace.endpoint.watch.report import Report
from headrace.endpoint.watch.tree import Tree

_MOST: Final = 100_000
"""Further ones are left for the next scan."""
_MOST_AT_ONCE: Final = 1000
_AGAIN_S: Final = 30.0
"""When to look again at what cannot be read."""


@dataclass(slots=True)
class _File:
    candidate: Candidate
    marker_ns: int | None
    version: int
    due: float


class Candidates:
    """Paths are below the folder."""

    def __init__(self, announcer: Announcer, tree: Tree, report: Report, stop: threading.Event) -> None:
        self._announcer = announcer
        self._rule = announcer.rule
        self._tree = tree
        self._report = report
        self._stop = stop
        self._files: dict[str, _File] = {}
        # An entry counts as long as it is what the file says of itself.
        self._due: list[tuple[float, str]] = []
        self._left_out = False

    def __len__(self) -> int:
        return len(self._files)

    def add(self, path: str, seen: Seen, marker_ns: int | None, version: int) -> None:
        """Look at this file until it is complete; what is known of it stays."""
        now = time.monotonic()
        file = self._files.get(path)
        if file is None:
            if len(self._files) < _MOST:
                file = self._files[path] = _File(Candidate(seen, now), marker_ns, version, now)
                heapq.heappush(self._due, (now, path))
            else:
                self._left_out = True
            return
        file.marker_ns = marker_ns
        if file.candidate.observe(seen, now):
            self._look_at(path, file, now)

    def drop(self, path: str) -> None:
        """Forget this file."""
        self._files.pop(path, None)

    def has_room_for_others(self) -> bool:
        """Whether some were left out and there is room for them now; said once."""
        if not self._left_out or len(self._files) > _MOST // 2:
            return False
        self._left_out = False
        return True

    def next_s(self, now: float) -> float:
        """How long until there is something to look at; 3600 s when there is nothing."""
        while self._due:
            due, path = self._due[0]
            file = self._files.get(path)
            if file is not None and file.due == due:
                return max(0.0, due - now)
            heapq.heappop(self._due)
        return 3600.0

    def complete(self) -> list[Noted]:
        """Some of the files that are complete now, the oldest first, with their events. They stay until dropped."""
        ready: list[tuple[int, str, _File]] = []
        while len(ready) < _MOST_AT_ONCE and not self._stop.is_set():
            now = time.monotonic()
            if self.next_s(now) > 0:
                break
            path = heapq.heappop(self._due)[1]
            file = self._files[path]
            wait_s = self._wait_s(path, file, now)
            if wait_s is None:
                self.drop(path)
            elif wait_s > 0:
                self._look_at(path, file, now + wait_s)
            else:
                ready.append((file.candidate.seen.mtime_ns, path, file))
        ready.sort(key=lambda each: each[:2])
        return [noted for _, path, file in ready if (noted := self._noted(path, file)) is not None]

    def _look_at(self, path: str, file: _File, due: float) -> None:
        file.due = due
        heapq.heappush(self._due, (due, path))

    def _wait_s(self, path: str, file: _File, now: float) -> float | None:
        """How long to wait until the next look; None when the file is gone."""
        whole, tree = self._tree.absolute(path), self._tree
        try:
            seen = look(whole, follow=tree.follow, inodes=tree.inodes)
        except OSError as error:
            self._report.problem(f"path {path}", f"{whole} cannot be looked at: {error.strerror or error}")
            return _AGAIN_S
        if seen is None:
            return None
        file.candidate.observe(seen, now)

        def is_written() -> bool | None:
            opened = look_inside(whole, follow=tree.follow, inodes=tree.inodes)
            if opened is None:
                return None
            if file.candidate.observe(opened.seen, now):
                # What the directory said was old.
                return True
            return opened.is_written

        return file.candidate.wait_s(self._rule.complete, self._rule.stable_s, now, is_written)

    def _noted(self, path: str, file: _File) -> Noted | None:
        seen, sha256 = file.candidate.seen, None
        if self._rule.checksum:
            sha256 = self._sha256(path, file)
            if sha256 is None:
                return None
        event = self._announcer.completed(path, seen, file.version, sha256)
        return Noted(path, seen, file.marker_ns, file.version, event)

    def _sha256(self, path: str, file: _File) -> str | None:
        """The checksum of the version that is announced; None when there will be another look."""
        whole, tree = self._tree.absolute(path), self._tree
        try:
            digest = sha256_of(whole, follow=tree.follow, stop=self._stop)
            now = look(whole, follow=tree.follow, inodes=tree.inodes)
        except OSError as error:
            self._report.problem(f"path {path}", f"{whole} cannot be read: {error.strerror or error}")
            self._look_at(path, file, time.monotonic() + _AGAIN_S)
            return None
        if digest is None or now != file.candidate.seen:
            self._look_at(path, file, time.monotonic())
            return None
        return digest
