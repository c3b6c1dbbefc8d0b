"""Memory limits by the kernel's control groups (cgroup v2): one group for each worker, with all that its calls start.

A process may make groups only below one that was delegated to it, and the kernel wants the processes of such a group in
its leaves. So this works where whoever starts the endpoint arranged it, as systemd does with

    systemd-run --user -p Delegate=memory -p DelegateSubgroup=headrace headrace endpoint start NAME

and the pool finds itself in `…/run-….service/headrace`, next to which it may make `worker-…`.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from headrace.endpoint.errors import CgroupsUnusable

_MOUNTS = Path("/proc/self/mounts")
_OWN = Path("/proc/self/cgroup")
_PREFIX = "worker-"


class MemoryGroup:
    """The group of one worker. `close` ends whatever is still in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, pid: int) -> None:
        """Put a process in; what it starts from now on is in it too. Raises `OSError`."""
        (self._path / "cgroup.procs").write_text(str(pid))

    @property
    def was_exceeded(self) -> bool:
        """Whether the kernel killed something in here because the limit was reached."""
        with contextlib.suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", (self._path / "memory.events").read_text(), re.MULTILINE)
            return found is not None and int(found[1]) > 0
        return False

    def close(self) -> None:
        """End all that is in it and remove it. What is still dying keeps the directory, until the pool's next start."""
        with contextlib.suppress(OSError):
            (self._path / "cgroup.kill").write_text("1")  # Linux 5.14; before that only the process group is ended
        with contextlib.suppress(OSError):
            self._path.rmdir()


class MemoryGroups:
    """Where the pool may make groups. `of_this_process` finds it."""

    def __init__(self, parent: Path, limit_bytes: int) -> None:
        self._parent = parent
        self._limit_bytes = limit_bytes
        self._made = 0

    @classmethod
    def of_this_process(cls, limit_bytes: int) -> MemoryGroups:
        """Raises `CgroupsUnusable` when this process was not given what it needs."""
        groups = cls(delegated(_OWN.read_text(), _MOUNTS.read_text()), limit_bytes)
        groups.prepare()
        return groups

    def prepare(self) -> None:
        """Let groups below have limits, and remove those of an earlier pool. Raises `CgroupsUnusable`."""
        try:
            if "memory" not in (self._parent / "cgroup.controllers").read_text().split():
                raise CgroupsUnusable(f"the controller for memory was not delegated to {self._parent}")
            control = self._parent / "cgroup.subtree_control"
            if "memory" not in control.read_text().split():
                control.write_text("+memory")
            # One for a try: every right that is missing shows now and not with the first task.
            self.new().close()
        except OSError as error:
            raise CgroupsUnusable(f"{self._parent} cannot be used: {error.strerror or error}") from error
        for left in self._parent.glob(f"{_PREFIX}*"):
            pool = left.name.removeprefix(_PREFIX).partition("-")[0]
            if not Path(f"/proc/{pool}").exists():
                MemoryGroup(left).close()

    def new(self) -> MemoryGroup:
        """Make a group with the limit. Raises `OSError`."""
        self._made += 1
        path = self._parent / f"{_PREFIX}{os.getpid()}-{self._made}"
        path.mkdir()
        (path / "memory.max").write_text(str(self._limit_bytes))
        with contextlib.suppress(OSError):  # a kernel without swap has no such file
            (path / "memory.swap.max").write_text("0")
        # Without this the kernel would pick one process of the group, and the call would hang on its loss.
        (path / "memory.oom.group").write_text("1")
        return MemoryGroup(path)


def delegated(own: str, mounts: str) -> Path:
    """The group above ours. Raises `CgroupsUnusable` when there is none of which we may be sure that it is ours."""
    where = re.search(r"^0::(/.*)$", own, re.MULTILINE)
    mount = re.search(r"^\S+ (\S+) cgroup2 ", mounts, re.MULTILINE)
    if where is None or mount is None:
        raise CgroupsUnusable("this system has no cgroup v2")
    group = Path(mount[1] + where[1])
    try:
        is_ours = where[1] != "/" and os.getxattr(group.parent, "user.delegate") == b"1"
    except OSError:
        is_ours = False
    if not is_ours:
        raise CgroupsUnusable(
            "the pool was not started in a delegated cgroup (systemd: Delegate=memory, DelegateSubgroup=headrace)"
        )
    return group.parent
