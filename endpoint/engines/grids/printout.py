"""What calls print at a place elsewhere: kept until they end, and told of while they run.

A call that ends within a tenth of a second is not told of before: what it printed is under way with its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from headrace.endpoint.engines.engine import Output
from headrace.endpoint.engines.grids.control import PIECE_BYTES
from headrace.endpoint.engines.grids.grid import OnPrinted, Piece

_TELL_AFTER_S: Final = 0.1


class Printout:
    """What the calls of a host print. It belongs to the host's event loop."""

    def __init__(self, is_running: Callable[[UUID], bool], tell: OnPrinted | None) -> None:
        self.tell = tell
        """Takes pieces of what running calls print; None while nobody does."""
        self._is_running = is_running
        self._kept: dict[UUID, list[Piece]] = {}
        self._untold: list[tuple[UUID, str, Piece]] = []
        self._attempts: dict[UUID, int] = {}
        self._is_telling = False

    def expect(self, key: UUID, attempts: int) -> None:
        """A call comes that was tried so often before."""
        self._attempts[key] = attempts

    def add(self, output: Output) -> None:
        """Take what a call has printed."""
        attempt = output.attempt + self._attempts.get(output.key, 0)
        piece = (output.stream, output.run, attempt, output.offset, output.time, output.data)
        self._kept.setdefault(output.key, []).append(piece)
        if self.tell is None:
            return
        self._untold.append((output.key, output.worker, piece))
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_later(_TELL_AFTER_S, self._tell)

    def take(self, key: UUID) -> list[Piece]:
        """All that a call has printed, which has ended."""
        self._attempts.pop(key, None)
        return self._kept.pop(key, [])

    def _tell(self) -> None:
        self._is_telling = False
        untold, self._untold = self._untold, []
        for key, worker, (stream, run, attempt, offset, at, data) in untold:
            if self.tell is None or not self._is_running(key):
                continue
            for start in range(0, len(data), PIECE_BYTES):
                part = data[start : start + PIECE_BYTES]
                self.tell(key, worker, (stream, run, attempt, offset + start, at, part))
