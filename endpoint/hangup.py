"""SIGHUP means two things: somebody asks to read the configuration again, or the terminal was closed."""

from __future__ import annotations

import os


class Terminal:
    """The terminal that this process was started from, if any."""

    def __init__(self) -> None:
        self._was_there = _is_there()

    def is_closed(self) -> bool:
        """Whether there was one and is none any more."""
        return self._was_there and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
