"""What a grid is: places that run calls, one each, and may become more or fewer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from headrace.bus.tasks.bundles import LogEnd
from headrace.endpoint.engines.engine import Call, FinalState
from headrace.schemas import HeadraceError

Piece = tuple[int, int, int, int, float, bytes]
"""Some bytes that a call printed: stream, run, attempt, offset, unix seconds, data."""


OnPrinted = Callable[[UUID, str, Piece], None]
"""Takes a piece of what a running call prints, with its worker."""


class Ending(msgspec.Struct, array_like=True, kw_only=True):
    """How a call ended at its place. All that it printed comes along, whether the place told of it before or not."""

    state: FinalState
    encoding: int
    value: bytes
    started_at: float
    ended_at: float
    attempts: int = 1
    worker: str = ""
    log_end: LogEnd | None = None
    printed: list[Piece] = []
    raised: bool = False
    """Whether its function raised, so that another try may help."""


class PlaceLost(HeadraceError):
    """Raised when the place where a call ran is gone; the message says how."""

    code = "PlaceLost"


class Grid(Protocol):
    """Runs calls. All of it belongs to the event loop that `start` runs in."""

    slots: int
    """How many calls it can run now."""
    ahead: int
    """How many parcels of short calls more, for each of them, are given to it: the way there takes longer than they."""
    most_together: int
    """How many short calls may go to one place together."""
    most: int
    """How many it could run if it grew as far as it may."""
    broken: str
    """Why it can run none, and will not soon; empty while that is not so."""

    async def start(self, on_change: Callable[[], None], on_printed: OnPrinted) -> None:
        """Begin to have places. Returns soon; `on_change` is called whenever `slots` or `broken` change.

        What running calls print is given to `on_printed` as far as it comes: pieces may be missing, and come late.
        """

    def submit(self, errands: Sequence[tuple[Call, int]]) -> list[asyncio.Future[Ending]]:
        """Run calls at one place, one after the other; with each comes how often it was tried before.

        Raises `PlaceLost`, also in the futures; a cancelled future means nothing to the grid.
        """

    def want(self, calls: int) -> None:
        """Say how many calls are here, running or waiting: what a grid that can grow goes by."""

    def kill(self, keys: Iterable[UUID]) -> None:
        """End these calls at their places, as cancelled; soon, as far as that can be done."""

    def pids(self) -> list[int]:
        """The processes on this machine that run calls; each leads a process group of its own."""

    async def stop(self) -> None:
        """Give all places up, with what runs there."""


def settle(future: asyncio.Future[Ending], ending: Ending | Exception) -> None:
    """Give a future its end, unless somebody was before."""
    if future.done():
        return
    if isinstance(ending, Exception):
        future.set_exception(ending)
    else:
        future.set_result(ending)
