"""Walks a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headrace.endpoint.watch.completeness import Seen
from headrace.endpoint.watch.files import seen_of
from headrace.endpoint.watch.selection import Selection

Tell = Callable[[str, str], None]
"""Told of a path below the folder, and what is wrong with it."""


@dataclass(slots=True)
class Listing:
    """One directory. Its path is below the folder; the folder itself is the empty one."""

    directory: str
    identity: tuple[int, int] = (0, 0)
    """Device and inode: another directory of the same name has others."""
    names: set[str] = field(default_factory=set)
    """All that is in it."""
    files: dict[str, Seen] = field(default_factory=dict)
    """The files that count."""
    markers: dict[str, int] = field(default_factory=dict)
    """Markers, and when they were changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """How a folder is walked."""

    folder: str
    selection: Selection
    follow: bool
    inodes: bool

    def walk(self, start: str, tell: Tell, *, alone: bool = False) -> Iterator[Listing]:
        """The directories from `start` on, itself included, or itself `alone`. What cannot be read is told, and left
        out."""
        waiting, been = [start], set[tuple[int, int]]()
        while waiting:
            directory = waiting.pop()
            try:
                listing, below = self._list(directory, been, tell)
            except FileNotFoundError:
                continue
            except OSError as error:
                tell(directory, f"{self.absolute(directory)} cannot be read: {error.strerror or error}")
                continue
            if listing is not None:
                waiting += [] if alone else below
                yield listing

    def absolute(self, path: str) -> str:
        """The whole path of one below the folder."""
        return os.path.join(self.folder, path) if path else self.folder

    def _list(self, directory: str, been: set[tuple[int, int]], tell: Tell) -> tuple[Listing | None, list[str]]:
        below = list[str]()
        with os.scandir(self.absolute(directory)) as entries:
            found = os.stat(self.absolute(directory))
            listing = Listing(directory, (found.st_dev, found.st_ino))
            if self.follow:
                # Links may lead in a circle.
                if listing.identity in been:
                    return None, []
                been.add(listing.identity)
            for entry in entries:
                path = f"{directory}/{entry.name}" if directory else entry.name
                listing.names.add(entry.name)
                try:
                    self._take(listing, below, entry, path)
                except FileNotFoundError:
                    # Gone in this moment, or a link that leads nowhere.
                    continue
                except OSError as error:
                    tell(path, f"{self.absolute(path)} cannot be looked at: {error.strerror or error}")
        return listing, below

    def _take(self, listing: Listing, below: list[str], entry: os.DirEntry[str], path: str) -> None:
        if entry.is_dir(follow_symlinks=self.follow):
            if self.selection.enters(path):
                below.append(path)
            return
        if not entry.is_file(follow_symlinks=self.follow):
            return
        markers = self.selection.markers
        if markers is not None and markers.is_marker(entry.name):
            listing.markers[entry.name] = entry.stat(follow_symlinks=self.follow).st_mtime_ns
        elif self.selection.takes(path):
            listing.files[entry.name] = seen_of(entry.stat(follow_symlinks=self.follow), inodes=self.inodes)
