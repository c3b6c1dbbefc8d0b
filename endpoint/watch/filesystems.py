"""On which file system a folder lies: whether it tells of changes, and whether its inodes last."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SILENT: Final = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs")
"""Other machines write there, and this kernel does not hear of it."""
_FLEETING: Final = ("cifs", "smb3", "smbfs", "vfat", "msdos", "exfat", "9p")
"""A file may have another inode after the next mount."""
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """The file system of a folder."""

    kind: str = ""
    device: str = ""
    """What is mounted: a device, or a share."""
    root: str = "/"
    """Which directory of it is mounted."""

    @property
    def tells_of_changes(self) -> bool:
        """Whether changes made elsewhere can be heard of."""
        return self.kind not in _SILENT and not self.kind.startswith("fuse")

    @property
    def has_lasting_inodes(self) -> bool:
        """Whether a file keeps its inode over mounts."""
        return self.kind not in _FLEETING and not self.kind.startswith("fuse")

    def __str__(self) -> str:
        return f"{self.kind} of {self.device}" + (f", {self.root}" if self.root != "/" else "")


def file_system_of(folder: str, table: Path = Path("/proc/self/mountinfo")) -> FileSystem:
    """The file system that a folder lies on; an ordinary one where nobody can say."""
    real = os.path.realpath(folder)
    best, found = "", FileSystem()
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return found
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, about = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(about) < 2:
            continue
        point = _plain(fields[4])
        if _is_below(real, point) and len(point) >= len(best):
            # Of two mounts at one place the later one is seen.
            best, found = point, FileSystem(kind=about[0], device=_plain(about[1]), root=_plain(fields[3]))
    return found


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")
