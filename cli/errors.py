"""Errors of the command line.

CommandError            something that a person at the command line can mend
├── HomeUnusable        the home directory cannot be made, read or written
├── AlreadyRunning      another `headrace up` has this home
├── PortTaken           something else listens on the port
├── ArchiveUnusable     a backup that is damaged, not whole, or none at all
└── PartFailed          a part of `headrace up` ended or did not answer at its first start
"""

from __future__ import annotations

from headrace.schemas.errors import HeadraceError


class CommandError(HeadraceError):
    """Raised when a command cannot do its work; the message says what to do."""

    code = "CommandError"


class HomeUnusable(CommandError):
    """Raised when the home directory cannot be made, read or written."""

    code = "HomeUnusable"


class AlreadyRunning(CommandError):
    """Raised when another `headrace up`, the process `pid`, has this home."""

    code = "AlreadyRunning"

    def __init__(self, message: str, *, pid: int | None) -> None:
        self.pid = pid
        super().__init__(message)


class PortTaken(CommandError):
    """Raised when something else listens on the port."""

    code = "PortTaken"


class ArchiveUnusable(CommandError):
    """Raised when a file is no backup, or one that is damaged, not whole, or of a later release."""

    code = "ArchiveUnusable"


class PartFailed(CommandError):
    """Raised when a part of `headrace up` ended, or did not answer in time, at its first start."""

    code = "PartFailed"
