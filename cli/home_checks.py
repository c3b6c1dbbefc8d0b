"""What `headrace doctor` looks at on the disk: permissions, secrets, room."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from headrace.cli.findings import Finding, ok, problem, skipped, warning

_MIB: Final = 1024 * 1024
_FULL_BYTES: Final = 256 * _MIB
"""Below this a service refuses new messages: see `headrace.bus.installation.disk_guard`."""
_NEARLY_FULL_BYTES: Final = 1024 * _MIB
_FEW_INODES: Final = 1000
_SECRETS: Final = (
    "profile.json",
    "admin.token",
    "globus.yaml",
    "keys/*",
    "endpoints/*/endpoint.token",
    "endpoints/*/pool-*.json",
)


def home_findings(home: Path) -> Iterator[Finding]:
    """How a home is, from the outside in."""
    if not home.is_dir():
        yield skipped("home", f"there is no {home}: nothing of Headrace is kept on this machine")
        return
    yield _home(home)
    yield _secrets(home)
    yield disk_finding(home, shutil.disk_usage(home).free, os.statvfs(home))


def _home(home: Path) -> Finding:
    if not os.access(home, os.W_OK | os.X_OK):
        return problem("home", f"{home} cannot be written", "change its owner, or give --home a directory of yours")
    if stat.S_IMODE(home.stat().st_mode) & 0o077:
        return warning("home", f"other users of this machine may look into {home}", f"run `chmod 700 {home}`")
    return ok("home", f"{home} is writable, and for its owner only")


def _secrets(home: Path) -> Finding:
    files = [path for pattern in _SECRETS for path in sorted(home.glob(pattern)) if _is_secret(path)]
    readable = [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if readable:
        names = " ".join(map(str, readable))
        return problem(
            "secrets", f"other users may read secrets: {names}", f"run `chmod 600 {shlex.join(map(str, readable))}`"
        )
    foreign = [path for path in files if not os.access(path, os.R_OK)]
    if foreign:
        names = " ".join(map(str, foreign))
        return problem("secrets", f"these cannot be read: {names}", "run this as their owner, or give them to you")
    return ok("secrets", f"{len(files)} files with secrets are for their owner only")


def _is_secret(path: Path) -> bool:
    # What pools tell of themselves is for everybody who may look into the home.
    return path.is_file() and not path.name.endswith(".status.json")


def disk_finding(home: Path, free_bytes: int, file_system: os.statvfs_result) -> Finding:
    """Whether there is room for logs, sandboxes, large payloads and, with `headrace up`, everything durable."""
    shown, advice = f"{free_bytes / _MIB:,.0f} MiB are free at {home}", "make room on this disk"
    if free_bytes < _FULL_BYTES:
        return problem("disk", f"{shown}: `headrace up` refuses new messages below {_FULL_BYTES // _MIB} MiB", advice)
    if file_system.f_files and file_system.f_favail < _FEW_INODES:
        return problem("disk", f"the disk of {home} has room for {file_system.f_favail} more files only", advice)
    if free_bytes < _NEARLY_FULL_BYTES:
        return warning("disk", shown, advice)
    return ok("disk", shown)
