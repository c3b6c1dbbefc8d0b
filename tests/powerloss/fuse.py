"""A file system whose power can be cut, as a process: it speaks the kernel's own protocol at /dev/fuse.

    python fuse.py MOUNTPOINT MODEL

It takes commands as lines of JSON at its standard input and answers each with one; at the end of the input it unmounts
and ends. There is no library below it, since none can be had everywhere: `linux/fuse.h` describes the messages.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import stat
import struct
import sys
from collections.abc import Callable
from random import Random
from typing import Any

from powerloss.layers import Cut, Directory, File, Layers, Link, Model, Naming, Node, Write

_MOST_WRITE = 1 << 20
_BUFFER_BYTES = _MOST_WRITE + 65_536
_FOR_LONG_S = 1 << 20
"""The kernel may keep what it was told: nobody else changes anything."""

_DARK_S = 30
"""So long after the power has failed somebody has to ask for something."""

_MS_NOSUID_NODEV = 2 | 4
_MNT_DETACH = 2

_REQUEST = struct.Struct("<IIQQIIII")
_ANSWER = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_ATTRIBUTES_VALID = struct.Struct("<QII")
_SET = struct.Struct("<IIQQQQQQIIIIIIII")
_OPENED = struct.Struct("<QII")
_READ = struct.Struct("<QQII")
_WRITE = struct.Struct("<QQIIQII")
_INIT = struct.Struct("<IIII")
_STARTED = struct.Struct("<IIIIHHIIHHIIHHIIIII")
_ROOM = struct.Struct("<QQQQQIIII24x")
_NAMED = struct.Struct("<QQII")

_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE = 1, 2, 4, 8
_BIG_WRITES, _MANY_PAGES = 1 << 5, 1 << 22
_NOREPLACE, _EXCHANGE = 1, 2

Handler = Callable[["Disk", Node, memoryview], bytes]


class Disk:
    """Answers the kernel's requests from the layers."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.counts = {"writes": 0, "syncs": 0, "namings": 0}
        self.caller = (0, 0)
        self._nodes: dict[int, Node] = {1: layers.root}
        self._listings: dict[int, list[tuple[bytes, Node]]] = {}
        self._last_listing = 0

    def forget_all(self) -> None:
        """The kernel that knew us is gone."""
        for node in self._nodes.values():
            node.known = 0
        self._nodes = {1: self.layers.root}
        self._listings.clear()

    def answer(self, opcode: int, number: int, body: memoryview) -> bytes:
        """The body of the answer. Raises `OSError`, which is an answer too."""
        handler = _HANDLERS.get(opcode)
        if handler is None:
            raise OSError(errno.ENOSYS, "")
        node = self._nodes.get(number)
        if node is None and opcode not in (26, 17):
            raise OSError(errno.ESTALE, "")
        return handler(self, node or self.layers.root, body)

    def forget(self, number: int, answers: int) -> None:
        """The kernel let go of a node that so many of our answers named. One with a name will be named again."""
        node = self._nodes.get(number)
        if node is not None and node is not self.layers.root:
            node.known -= answers
            if node.known <= 0:
                del self._nodes[number]

    # Names

    def lookup(self, node: Node, body: memoryview) -> bytes:
        return self._entry(self._child(node, _names(body)[0]))

    def mkdir(self, node: Node, body: memoryview) -> bytes:
        mode, umask = struct.unpack_from("<II", body)
        made = Directory(self.layers.new_number(), stat.S_IFDIR | (mode & ~umask & 0o7777), *self.caller)
        return self._entry(self._add(node, _names(body[8:])[0], made))

    def mknod(self, node: Node, body: memoryview) -> bytes:
        mode, _, umask, _ = struct.unpack_from("<IIII", body)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EPERM, "")
        return self._entry(self._add(node, _names(body[16:])[0], self._new_file(mode & ~umask)))

    def create(self, node: Node, body: memoryview) -> bytes:
        _, mode, umask, _ = struct.unpack_from("<IIII", body)
        made = self._add(node, _names(body[16:])[0], self._new_file(mode & ~umask))
        return self._entry(made) + _OPENED.pack(0, 0, 0)

    def symlink(self, node: Node, body: memoryview) -> bytes:
        name, target = _names(body)[:2]
        return self._entry(self._add(node, name, Link(self.layers.new_number(), target, *self.caller)))

    def readlink(self, node: Node, body: memoryview) -> bytes:
        if not isinstance(node, Link):
            raise OSError(errno.EINVAL, "")
        return node.target

    def link(self, node: Node, body: memoryview) -> bytes:
        (number,) = struct.unpack_from("<Q", body)
        linked = self._nodes[number]
        linked.links += 1
        return self._entry(self._add(node, _names(body[8:])[0], linked))

    def unlink(self, node: Node, body: memoryview) -> bytes:
        name = _names(body)[0]
        gone = self._child(node, name)
        if isinstance(gone, Directory) and gone.names:
            raise OSError(errno.ENOTEMPTY, "")
        gone.links -= 1
        self._name(Naming(_directory(node), name, None))
        return b""

    def rename(self, node: Node, body: memoryview) -> bytes:
        (to,) = struct.unpack_from("<Q", body)
        return self._rename(node, to, 0, *_names(body[8:])[:2])

    def rename_with_flags(self, node: Node, body: memoryview) -> bytes:
        to, flags, _ = struct.unpack_from("<QII", body)
        return self._rename(node, to, flags, *_names(body[16:])[:2])

    def _rename(self, node: Node, to: int, flags: int, old: bytes, new: bytes) -> bytes:
        source, target = _directory(node), _directory(self._nodes[to])
        moved, there = self._child(source, old), target.names.get(new)
        if flags & _EXCHANGE:
            raise OSError(errno.EINVAL, "")
        if there is not None and flags & _NOREPLACE:
            raise OSError(errno.EEXIST, "")
        if isinstance(there, Directory) and there.names:
            raise OSError(errno.ENOTEMPTY, "")
        if there is not None:
            there.links -= 1
        self._name(Naming(target, new, moved), Naming(source, old, None))
        return b""

    # Contents

    def open(self, node: Node, body: memoryview) -> bytes:
        return _OPENED.pack(0, 0, 0)

    def read(self, node: Node, body: memoryview) -> bytes:
        _, offset, size, _ = _READ.unpack_from(body)
        return bytes(_file(node).content[offset : offset + size])

    def write(self, node: Node, body: memoryview) -> bytes:
        _, offset, size, _, _, flags, _ = _WRITE.unpack_from(body)
        file = _file(node)
        file.change(Write(offset, bytes(body[_WRITE.size : _WRITE.size + size])))
        self.counts["writes"] += 1
        if flags & (os.O_SYNC | os.O_DSYNC):
            self.sync(node, body)
        return struct.pack("<II", size, 0)

    def sync(self, node: Node, body: memoryview) -> bytes:
        self.counts["syncs"] += 1
        self.layers.sync_file(_file(node))
        return b""

    def set_attributes(self, node: Node, body: memoryview) -> bytes:
        valid, _, _, size, *_rest = _SET.unpack_from(body)
        mode, uid, gid = _SET.unpack_from(body)[11], _SET.unpack_from(body)[13], _SET.unpack_from(body)[14]
        if valid & _SET_MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & _SET_UID:
            node.uid = uid
        if valid & _SET_GID:
            node.gid = gid
        if valid & _SET_SIZE:
            _file(node).change(Write(size, None))
        return self.attributes(node, body)

    def attributes(self, node: Node, body: memoryview) -> bytes:
        return _ATTRIBUTES_VALID.pack(_FOR_LONG_S, 0, 0) + _attributes(node)

    # Directories

    def open_directory(self, node: Node, body: memoryview) -> bytes:
        self._last_listing += 1
        names = _directory(node).names
        self._listings[self._last_listing] = [(b".", node), (b"..", node), *names.items()]
        return _OPENED.pack(self._last_listing, 0, 0)

    def read_directory(self, node: Node, body: memoryview) -> bytes:
        handle, offset, size, _ = _READ.unpack_from(body)
        page = bytearray()
        for position, (name, child) in enumerate(self._listings[handle][offset:], start=offset + 1):
            entry = _NAMED.pack(child.number, position, len(name), stat.S_IFMT(child.mode) >> 12) + name
            entry += bytes(-len(entry) % 8)
            if len(page) + len(entry) > size:
                break
            page += entry
        return bytes(page)

    def close_directory(self, node: Node, body: memoryview) -> bytes:
        (handle,) = struct.unpack_from("<Q", body)
        self._listings.pop(handle, None)
        return b""

    def sync_directory(self, node: Node, body: memoryview) -> bytes:
        self.counts["syncs"] += 1
        self.layers.sync_directory(_directory(node))
        return b""

    # The whole

    def init(self, node: Node, body: memoryview) -> bytes:
        major, minor, readahead, flags = _INIT.unpack_from(body)
        flags &= _BIG_WRITES | _MANY_PAGES
        pages = _MOST_WRITE // 4096
        return _STARTED.pack(
            major, min(minor, 31), readahead, flags, 12, 9, _MOST_WRITE, 1, pages, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
        )

    def room(self, node: Node, body: memoryview) -> bytes:
        blocks = (8 << 30) // 4096
        return _ROOM.pack(blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096, 0)

    def nothing(self, node: Node, body: memoryview) -> bytes:
        return b""

    def _new_file(self, mode: int) -> File:
        return File(self.layers.new_number(), stat.S_IFREG | (mode & 0o7777), *self.caller)

    def _child(self, node: Node, name: bytes) -> Node:
        child = _directory(node).names.get(name)
        if child is None:
            raise OSError(errno.ENOENT, "")
        return child

    def _add(self, node: Node, name: bytes, made: Node) -> Node:
        directory = _directory(node)
        if name in directory.names:
            raise OSError(errno.EEXIST, "")
        self._name(Naming(directory, name, made))
        return made

    def _name(self, *namings: Naming) -> None:
        self.counts["namings"] += 1
        self.layers.rename(*namings)

    def _entry(self, node: Node) -> bytes:
        self._nodes[node.number] = node
        node.known += 1
        return _ENTRY.pack(node.number, 0, _FOR_LONG_S, _FOR_LONG_S, 0, 0) + _attributes(node)


# Not 25, by which the kernel tells of closed descriptors, which syncs nothing: told once that nobody wants to know, it
# stops asking, and a test may close what it has open also when the power has failed.
_HANDLERS: dict[int, Handler] = {
    1: Disk.lookup,
    3: Disk.attributes,
    4: Disk.set_attributes,
    5: Disk.readlink,
    6: Disk.symlink,
    8: Disk.mknod,
    9: Disk.mkdir,
    10: Disk.unlink,
    11: Disk.unlink,  # a directory
    12: Disk.rename,
    13: Disk.link,
    14: Disk.open,
    15: Disk.read,
    16: Disk.write,
    17: Disk.room,
    18: Disk.nothing,  # a file was closed
    20: Disk.sync,
    26: Disk.init,
    27: Disk.open_directory,
    28: Disk.read_directory,
    29: Disk.close_directory,
    30: Disk.sync_directory,
    35: Disk.create,
    38: Disk.nothing,  # unmounted
    45: Disk.rename_with_flags,
}

_CHANGES = frozenset({4, 6, 8, 9, 10, 11, 12, 13, 16, 20, 30, 35, 45})
_FORGET, _FORGET_MANY, _INTERRUPT = 2, 42, 36


class Mount:
    """The kernel's side: mounts, hands requests to the disk, and cuts the power."""

    def __init__(self, place: str, model: Model) -> None:
        self._place = place
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._disk = Disk(Layers(model))
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._device = -1
        self._changes_left: int | None = None

    def mount(self) -> None:
        """Raises `OSError` where that is not allowed."""
        device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        options = f"fd={device},rootmode=40755,user_id=0,group_id=0,default_permissions,allow_other"
        place = os.fsencode(self._place)
        if self._libc.mount(b"powerloss", place, b"fuse.powerloss", _MS_NOSUID_NODEV, options.encode()) != 0:
            number = ctypes.get_errno()
            os.close(device)
            raise OSError(number, os.strerror(number), self._place)
        self._device = device

    def unmount(self) -> None:
        """Take it away from whoever still uses it: their calls fail from now on."""
        os.close(self._device)
        self._device = -1
        self._libc.umount2(os.fsencode(self._place), _MNT_DETACH)

    def run(self) -> None:
        """Serve until the standard input ends."""
        try:
            while True:
                poll = select.poll()
                poll.register(0, select.POLLIN | select.POLLHUP)
                if self._changes_left != 0:
                    poll.register(self._device, select.POLLIN)
                ready = {descriptor for descriptor, _ in poll.poll(None if self._changes_left != 0 else _DARK_S * 1000)}
                if not ready:
                    return  # whoever still waits for the disk gets an error, instead of waiting for ever
                if 0 in ready:
                    if not self._command():
                        return
                elif self._device in ready:
                    self._serve()
        finally:
            self.unmount()

    def _command(self) -> bool:
        line = sys.stdin.readline()
        if not line:
            return False
        print(json.dumps(self._obey(json.loads(line))), flush=True)  # noqa: T201 - the answer
        return True

    def _obey(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "cut":
            return self._cut(Cut(command["cut"]), command["seed"])
        if command["do"] == "stop after":
            self._changes_left = int(command["changes"])
        return {"stopped": self._changes_left == 0, **self._disk.counts}

    def _cut(self, cut: Cut, seed: int) -> dict[str, Any]:
        self.unmount()
        self._changes_left = None
        lost = self._disk.layers.cut(Random(seed) if cut is Cut.SCATTER else None)  # noqa: S311 - a repeatable misfortune
        self._disk.forget_all()
        self.mount()
        return {"lost_writes": lost.writes, "lost_names": lost.names, **self._disk.counts}

    def _serve(self) -> None:
        # Everything that is there, before the next look at the commands.
        while self._changes_left != 0:
            try:
                size = os.readv(self._device, [self._buffer])
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                    return
                raise
            self._answer(self._view[:size])

    def _forget(self, opcode: int, number: int, body: memoryview) -> None:
        """Requests that want no answer."""
        if opcode == _FORGET:
            self._disk.forget(number, *struct.unpack_from("<Q", body))
        elif opcode == _FORGET_MANY:
            (count, _) = struct.unpack_from("<II", body)
            for each in range(count):
                self._disk.forget(*struct.unpack_from("<QQ", body, 8 + 16 * each))

    def _answer(self, request: memoryview) -> None:
        _, opcode, unique, number, uid, gid, _, _ = _REQUEST.unpack_from(request)
        if opcode in (_FORGET, _FORGET_MANY, _INTERRUPT):
            self._forget(opcode, number, request[_REQUEST.size :])
            return
        if opcode in _CHANGES and self._changes_left is not None:
            self._changes_left -= 1
            if self._changes_left == 0:
                return  # The power is gone: no answer any more, and no effect.
        self._disk.caller = (uid, gid)
        try:
            failed, body = 0, self._disk.answer(opcode, number, request[_REQUEST.size :])
        except OSError as error:
            failed, body = error.errno or errno.EIO, b""
        try:
            os.writev(self._device, [_ANSWER.pack(_ANSWER.size + len(body), -failed, unique), body])
        except OSError as error:
            # Who asked was killed meanwhile.
            if error.errno != errno.ENOENT:
                raise


def _names(body: memoryview) -> list[bytes]:
    return bytes(body).split(b"\0")


def _file(node: Node) -> File:
    if isinstance(node, File):
        return node
    raise OSError(errno.EISDIR, "")


def _directory(node: Node) -> Directory:
    if isinstance(node, Directory):
        return node
    raise OSError(errno.ENOTDIR, "")


def _attributes(node: Node) -> bytes:
    seconds, fraction = divmod(node.changed_ns, 1_000_000_000)
    links = 2 if isinstance(node, Directory) else max(node.links, 0)
    return _ATTRIBUTES.pack(
        node.number, node.size, (node.size + 511) // 512,
        seconds, seconds, seconds, fraction, fraction, fraction,
        node.mode, links, node.uid, node.gid, 0, 4096, 0,
    )  # fmt: skip


def main() -> None:
    """Mount, say so, serve."""
    mount = Mount(sys.argv[1], Model(sys.argv[2]))
    try:
        mount.mount()
    except OSError as error:
        print(json.dumps({"error": f"{error.strerror}: {error.filename}"}), flush=True)  # noqa: T201 - the answer
        return
    print(json.dumps({"mounted": sys.argv[1]}), flush=True)  # noqa: T201 - the answer
    mount.run()


if __name__ == "__main__":
    main()
