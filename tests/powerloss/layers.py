"""What a disk remembers: files and directories as programs see them, and below, what would be there after a power cut.

Every change is pending until it is synced. What syncs what is a choice, since file systems differ:

    POSIX     fsync of a file makes its bytes and its size durable, and nothing else; its name, and the removal or
              renaming of a name, become durable by fsync of the directory. No file system promises less.
    JOURNAL   fsync of a file also makes durable every change of a name that was made before it, as ext4, XFS and btrfs
              do: they have one journal for all of these.

What a cut does with the pending changes is a choice as well:

    drop      all of them are gone
    scatter   the system wrote back some of them by itself, page by page, in no order: each is kept or lost by lot.
              Of names, JOURNAL keeps them in their order up to some point.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

PAGE_BYTES = 4096


class Model(StrEnum):
    """What an fsync makes durable."""

    POSIX = "posix"
    JOURNAL = "journal"


class Cut(StrEnum):
    """What becomes of changes that were not synced."""

    DROP = "drop"
    SCATTER = "scatter"


class Node:
    """A file, directory or symbolic link. Owner, mode and times are taken as durable: nothing here depends on them."""

    def __init__(self, number: int, mode: int, uid: int, gid: int) -> None:
        self.number = number
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.changed_ns = time.time_ns()
        self.links = 1
        self.known = 0
        """How many answers to the kernel have named it; for whoever gives them."""

    @property
    def size(self) -> int:
        return PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at a place of a file; without bytes, the file's new size."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data

    def pages(self) -> Iterator[Write]:
        """The same, as the system would write it back: by pages."""
        if self.data is None:
            yield self
            return
        start, end = self.offset, self.offset + len(self.data)
        while start < end:
            stop = min(end, (start // PAGE_BYTES + 1) * PAGE_BYTES)
            yield Write(start, self.data[start - self.offset : stop - self.offset])
            start = stop


class File(Node):
    """A file's bytes, and those that are durable."""

    def __init__(self, number: int, mode: int, uid: int, gid: int) -> None:
        super().__init__(number, mode, uid, gid)
        self.content = bytearray()
        self.durable = bytearray()
        self.pending: list[Write] = []

    @property
    def size(self) -> int:
        return len(self.content)

    def change(self, write: Write) -> None:
        """Write, for programs to see."""
        write.apply(self.content)
        self.pending.append(write)
        self.changed_ns = time.time_ns()

    def sync(self) -> None:
        """Make everything written so far durable."""
        for write in self.pending:
            write.apply(self.durable)
        self.pending.clear()

    def cut(self, lot: Random | None) -> None:
        """Forget what was not synced, or with a lot some of it."""
        for write in self.pending if lot is not None else ():
            for page in write.pages():
                if lot is not None and lot.random() < 0.5:
                    page.apply(self.durable)
        self.pending.clear()
        self.content = bytearray(self.durable)


class Link(Node):
    """A symbolic link."""

    def __init__(self, number: int, target: bytes, uid: int, gid: int) -> None:
        super().__init__(number, stat.S_IFLNK | 0o777, uid, gid)
        self.target = target

    @property
    def size(self) -> int:
        return len(self.target)


class Directory(Node):
    """Names, and those that are durable."""

    def __init__(self, number: int, mode: int, uid: int, gid: int) -> None:
        super().__init__(number, mode, uid, gid)
        self.names: dict[bytes, Node] = {}
        self.durable: dict[bytes, Node] = {}


@dataclass(frozen=True, slots=True)
class Naming:
    """One change of one name in one directory: to a node, or to nothing."""

    directory: Directory
    name: bytes
    node: Node | None

    def apply(self, names: dict[bytes, Node]) -> None:
        if self.node is None:
            names.pop(self.name, None)
        else:
            names[self.name] = self.node


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What a power cut destroyed."""

    writes: int
    names: int


class Layers:
    """The whole tree."""

    def __init__(self, model: Model = Model.POSIX) -> None:
        self.model = model
        self.root = Directory(1, stat.S_IFDIR | 0o755, 0, 0)
        self._last_number = 1
        self._pending: list[tuple[Naming, ...]] = []

    def new_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def rename(self, *namings: Naming) -> None:
        """Change names, all at once: a rename is two changes that are never seen, or kept, alone."""
        for naming in namings:
            naming.apply(naming.directory.names)
            naming.directory.changed_ns = time.time_ns()
        self._pending.append(namings)

    def sync_file(self, file: File) -> None:
        """What fsync and fdatasync of a file do."""
        file.sync()
        if self.model is Model.JOURNAL:
            self._settle(self._pending)
            self._pending = []

    def sync_directory(self, directory: Directory) -> None:
        """What fsync of a directory does."""
        everything = self.model is Model.JOURNAL
        settled = [each for each in self._pending if everything or any(n.directory is directory for n in each)]
        self._pending = [each for each in self._pending if each not in settled]
        self._settle(settled)

    def cut(self, lot: Random | None = None) -> Lost:
        """Cut the power: from now on everything is as it is durable. With a lot: some of the rest is there as well."""
        kept = self._kept_by(lot) if lot is not None else []
        self._settle(kept)
        lost_names, self._pending = len(self._pending) - len(kept), []
        lost_writes, waiting, seen = 0, [self.root], set[int]()
        while waiting:
            directory = waiting.pop()
            directory.names = dict(directory.durable)
            for node in directory.names.values():
                if node.number in seen:
                    continue
                seen.add(node.number)
                if isinstance(node, Directory):
                    waiting.append(node)
                elif isinstance(node, File):
                    lost_writes += len(node.pending)
                    node.cut(lot)
        return Lost(writes=lost_writes, names=lost_names)

    def _kept_by(self, lot: Random) -> list[tuple[Naming, ...]]:
        if self.model is Model.JOURNAL:
            return self._pending[: lot.randint(0, len(self._pending))]
        return [each for each in self._pending if lot.random() < 0.5]

    def _settle(self, changes: list[tuple[Naming, ...]]) -> None:
        for change in changes:
            for naming in change:
                naming.apply(naming.directory.durable)
