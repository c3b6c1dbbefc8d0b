"""Files that hold secrets: written whole and durable, and read only where nobody else could."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from pathlib import Path

from headrace.bus.errors import KeysUnusable


def write_private(path: Path, content: str | bytes, *, owner: tuple[int, int] | None = None) -> None:
    """Put a file in place at once and whole, readable by its owner only, and there after a power cut.

    `owner` is a user and a group, by their numbers, to whom root gives it.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a synced file is of no use under the name that it had before."""
    if os.name == "nt":
        return  # it opens no directories, and its file systems keep names in order
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_private(path: Path) -> bytes:
    """Read a secret. Raises `KeysUnusable` when it is not there, not readable, or readable by others."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeysUnusable(
                    f"{path} is open to other users (mode {mode:04o}); run: chmod 600 {shlex.quote(str(path))}"
                )
            return file.read()
    except FileNotFoundError:
        raise KeysUnusable(f"{path} is missing; restore it from your backup, or start with another --home") from None
    except OSError as error:
        raise KeysUnusable(f"{path} cannot be read: {error.strerror or error}") from error


def make_private_directory(path: Path) -> None:
    """Make a directory that is open to its owner only, or close it to others. Raises `KeysUnusable`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise KeysUnusable(f"{path} cannot be made: {error.strerror or error}") from error
