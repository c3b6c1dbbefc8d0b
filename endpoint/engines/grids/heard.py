"""What is known of what a call prints while it runs at a place elsewhere.

Pieces come while it runs, as far as they come: a connection may break, or be full. All of them come with its end. So of
the first ones those are taken that follow what is there without a gap, and of the last ones the rest.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.endpoint.engines.grids.grid import Piece


class Heard:
    """How far the streams of a call's runs are known."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}

    def follows(self, piece: Piece) -> bool:
        """Whether a piece is the next one; then it counts as known from here on."""
        stream, run, _, offset, _, data = piece
        if offset != self._known.get((stream, run), 0):
            return False
        self._known[stream, run] = offset + len(data)
        return True

    def rest(self, pieces: Iterable[Piece]) -> list[Piece]:
        """What is not known of all that the call's runs have printed."""
        found: list[Piece] = []
        for stream, run, attempt, offset, at, data in pieces:
            known = self._known.get((stream, run), 0) - offset
            if known <= 0:
                found.append((stream, run, attempt, offset, at, data))
            elif known < len(data):
                found.append((stream, run, attempt, offset + known, at, data[known:]))
        return found
