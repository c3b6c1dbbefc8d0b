"""What tells that something changed in some directories: the kernel, through `watchfiles`, or nobody.

What comes is a hint, never the truth: kernels drop notices when there are too many. Scans find the rest.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

logger = logging.getLogger(__name__)

INSTALL: Final = "pip install 'headrace[watch]'"

_STEP_MS: Final = 20
_TOGETHER_MS: Final = 100
_TRIES: Final = 3


class Notices(Protocol):
    """Says which paths may have changed."""

    @property
    def problem(self) -> str | None:
        """Why changes cannot be heard of; None when they can."""

    def watch(self, directories: Iterable[str]) -> None:
        """From now on: these directories, each without what is below it."""

    def wait(self, timeout_s: float, stop: threading.Event) -> set[str] | None:
        """What may have changed; empty when the time is over, or `stop` is set. None: everything may have, and what was
        watched is watched no longer."""

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
        self._left: set[str] | None = set()
        """What one that was replaced had still to tell; None when it could not."""

    def watch(self, directories: Iterable[str]) -> None:
        """From now on these. Each is named to the library, which by itself would follow links wherever they lead."""
        before = self._notify
        wanted = sorted(directories)
        nameable = [path for path in wanted if _is_text(path)]
        self.problem = None if nameable == wanted else "the name of a directory is no UTF-8"
        self._notify = self._made(nameable)
        if before is not None:
            # Only now, when the new one hears everything.
            left = _asked(before, _STEP_MS, None)
            self._left = None if left is None or self._left is None else self._left | left
            before.close()

    def _made(self, paths: list[str]) -> RustNotify | None:
        from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

        for _ in range(_TRIES):
            try:
                # Not the library's own tolerance of what it may not watch: it covers the kernel's limits as well.
                return RustNotify(paths, False, False, 0, False, False) if paths else None
            except FileNotFoundError:
                # One went away meanwhile.
                paths = [path for path in paths if os.path.isdir(path)]
            except (OSError, WatchfilesRustInternalError) as error:
                self.problem = f"the kernel does not tell of changes ({error}); see fs.inotify.max_user_watches"
                return None
        self.problem = "directories come and go too fast to hear of changes in them"
        return None

    def wait(self, timeout_s: float, stop: threading.Event) -> set[str] | None:
        """What may have changed."""
        left, self._left = self._left, set()
        if left is None or left:
            return left
        if self._notify is None:
            stop.wait(timeout_s)
            return set()
        found = _asked(self._notify, max(_STEP_MS, int(timeout_s * 1000)), stop)
        if found is None:
            self.close()
        return found

    def close(self) -> None:
        """Let go of the kernel's watches."""
        if self._notify is not None:
            self._notify.close()
            self._notify = None


def _asked(notify: RustNotify, timeout_ms: int, stop: threading.Event | None) -> set[str] | None:
    """What the library tells; None when it has met what it cannot tell of, such as a name that is no UTF-8."""
    from watchfiles._rust_notify import WatchfilesRustInternalError

    try:
        found = notify.watch(_TOGETHER_MS, _STEP_MS, timeout_ms, stop)
    except WatchfilesRustInternalError as error:
        logger.debug("Looking at everything: %s", error)
        return None
    return {path for _, path in found} if isinstance(found, set) else set()


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def can_hear() -> bool:
    """Whether the library is installed that hears what the kernel tells."""
    return importlib.util.find_spec("watchfiles") is not None
