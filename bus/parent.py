"""Child processes that end with their parent."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` after which the kernel kills the child when the thread that started it ends; None off Linux."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # only here, and only on Linux

    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the line above; then nobody would ever send the signal.
        if os.getppid() != parent:
            os._exit(1)

    return arrange
