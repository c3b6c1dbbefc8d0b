"""What tells that something changed in some directories: the kernel, through `watchfiles`, or nobody.

What comes is a hint, never the truth: kernels drop notices when there are too many. Scans find the rest.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

logger = logging.getLogger(__name__)

INSTALL: Final = "pip install 'headrace[watch]'"

_STEP_MS: Final = 20
_TOGETHER_MS: Final = 100


class Notices(Protocol):
    """Says which paths may have changed."""

    @property
    def problem(self) -> str | None:
        """Why changes cannot be heard of; None when they can."""

    def watch(self, directories: Iterable[str]) -> None:
        """From now on: these directories, each without what is below it."""

    def wait(self, timeout_s: float, stop: threading.Event) -> set[str]:
        """What may have changed; empty when the time is over, or `stop` is set."""

    def close(self) -> None:
        """Let go of everything."""


class NoNotices:
    """Nobody tells anything: everything is found by scans."""

    problem: str | None = None

    def watch(self, directories: Iterable[str]) -> None:
        """Nothing to do."""

    def wait(self, timeout_s: float, stop: threading.Event) -> set[str]:
        """Waits, and knows nothing."""
        stop.wait(timeout_s)
        return set()

    def close(self) -> None:
        """Nothing to do."""


class KernelNotices:
    """The kernel tells, as far as it lets itself be asked."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._notify: RustNotify | None = None
        self._left: set[str] = set()

    def watch(self, directories: Iterable[str]) -> None:
        """From now on these. Each is named to the library, which by itself would follow links wherever they lead."""
        from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

        before, self._notify = self._notify, None
        paths = sorted(directories)
        try:
            if paths:
                self._notify = RustNotify(paths, False, False, 0, False, True)
            self.problem = None
        except FileNotFoundError:
            # One went away meanwhile: the scan that follows knows better, and asks again.
            self._notify, before = before, None
        except (OSError, WatchfilesRustInternalError) as error:
            self.problem = f"the kernel does not tell of changes ({error}); see fs.inotify.max_user_watches"
        if before is not None:
            # Only now, when the new one hears everything: what the old one still has to tell.
            self._left |= _told(before.watch(_TOGETHER_MS, _STEP_MS, _STEP_MS, None))
            before.close()

    def wait(self, timeout_s: float, stop: threading.Event) -> set[str]:
        """What may have changed."""
        if self._left:
            left, self._left = self._left, set()
            return left
        if self._notify is None:
            stop.wait(timeout_s)
            return set()
        return _told(self._notify.watch(_TOGETHER_MS, _STEP_MS, max(_STEP_MS, int(timeout_s * 1000)), stop))

    def close(self) -> None:
        """Let go of the kernel's watches."""
        if self._notify is not None:
            self._notify.close()
            self._notify = None


def _told(found: set[tuple[int, str]] | str) -> set[str]:
    return {path for _, path in found} if isinstance(found, set) else set()


def can_hear() -> bool:
    """Whether the library is installed that hears what the kernel tells."""
    return importlib.util.find_spec("watchfiles") is not None
