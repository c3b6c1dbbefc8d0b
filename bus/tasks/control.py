"""Cancellations: what the service asks of a pool about one bundle.

    control  b"HC" version(1)  MAC(32)  body         (`headrace.bus.signed`)

Stored under the bundle's control subject, one message per bundle: a later cancellation is added to what is stored, so
whoever reads the last message knows all of them. The MAC covers subject and body under the pool's secret: only the
service can cancel.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from headrace.bus.keys import Keys
from headrace.bus.signed import Signed


class Control(msgspec.Struct, array_like=True, frozen=True):
    """Which tasks of a bundle are cancelled. `None` stands for every task.

    A task in `cancelled` must not start; one in `forced` is stopped even while it runs, and counts as cancelled too.
    """

    cancelled: frozenset[int] | None = frozenset()
    forced: frozenset[int] | None = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is cancelled."""
        return self.cancelled == frozenset() == self.forced

    def cancels(self, index: int) -> bool:
        """Whether the task must not start."""
        return _holds(self.cancelled, index) or self.forces(index)

    def forces(self, index: int) -> bool:
        """Whether the task is stopped even while it runs."""
        return _holds(self.forced, index)

    def merged(self, other: Control) -> Control:
        """Both cancellations in one."""
        return Control(_union(self.cancelled, other.cancelled), _union(self.forced, other.forced))


def cancel_tasks(indices: Collection[int] | None, *, force: bool = False) -> Control:
    """The cancellation of these tasks of a bundle; `None` cancels all of them."""
    chosen = None if indices is None else frozenset(indices)
    return Control(chosen, chosen if force else frozenset())


_signed = Signed(Control, "a cancellation", magic=b"HC\x01", purpose="control")


def encode_control(control: Control, *, subject: str, pool_secret: bytes) -> bytes:
    """The message that stores a cancellation under `subject`."""
    return _signed.encode(control, subject=subject, key=pool_secret)


def decode_control(message: bytes, *, subject: str, pool_secret: Keys) -> Control:
    """Read a cancellation. Raises `SignatureInvalid` and `DecodeError`."""
    return _signed.decode(message, subject=subject, key=pool_secret)


def _holds(indices: frozenset[int] | None, index: int) -> bool:
    return indices is None or index in indices


def _union(left: frozenset[int] | None, right: frozenset[int] | None) -> frozenset[int] | None:
    return None if left is None or right is None else left | right
