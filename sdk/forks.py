"""What a process that was forked must forget of its parent: connections, and locks that other threads held.

A child has its parent's memory but not its threads, so nothing ends there that was under way, and a lock that another
thread had would be held for ever. Futures of the parent's tasks never end in the child.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that lives on in a child."""

    def after_fork(self) -> None:
        """Forget what belongs to the parent. Called in the child, before anything else runs there."""


_all: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_after_fork(each: Forked) -> None:
    """Call `each.after_fork()` in every child that is forked while it lives."""
    _all.add(each)


def _tell() -> None:
    for each in list(_all):
        each.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell)
