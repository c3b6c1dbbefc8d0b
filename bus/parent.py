"""Child processes that end with their parent."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29


def die_with_parent(*, timer_slack_s: float = 0.0) -> Callable[[], None] | None:
    """A `preexec_fn` after which the kernel kills the child when the thread that started it ends; None off Linux.

    The kernel may let the child's timers ring so much later, 0.05 ms unless `timer_slack_s` says otherwise.
    """
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # only here, and only on Linux

    libc = ctypes.CDLL(None, use_errno=True)
    parent, slack_ns = os.getpid(), round(timer_slack_s * 1e9)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if slack_ns:
            libc.prctl(_PR_SET_TIMERSLACK, slack_ns, 0, 0, 0)
        # The parent may have died before the line above; then nobody would ever send the signal.
        if os.getppid() != parent:
            os._exit(1)

    return arrange
