"""Ends of actions that follow from results: shown at once, written a moment later, many with one sync.

What the results of an action's tasks say is stored before it is shown, and never changes: whoever computes the end of
the action computes this one. So nobody waits until it is written, too. What a crash leaves unwritten is written after
the next look at the action (`headrace.bus.store.action_lists` tells which actions that are).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from headrace.bus.errors import BusError, BusUnavailable, RecordConflict, StreamFull
from headrace.bus.store.records import Record

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

TOGETHER_S: Final = 0.2
"""Ends that come within this time are written together: a batch costs the server as much as some thirty single ones."""
MOST: Final = 1000
"""Where so many wait to be written, whoever brings another one writes it, and waits."""
_LEAST_TOGETHER: Final = 16
"""Fewer are quicker one by one: see `headrace.bus.nats.at_once`."""
_MOST_TOGETHER: Final = 250
_MOST_AT_A_TIME: Final = 16
_AGAIN_S: Final = 1.0
_AT_THE_END_S: Final = 5.0


@dataclass(eq=False, slots=True)
class _End(Generic[T]):
    """A record as it is shown; its revision is that of the stored one, which it will replace."""

    record: Record[T]
    written: asyncio.Future[Record[T] | None]
    """As it is stored; None where somebody else was first."""


class EndsToWrite(Generic[T]):
    """Those of one bucket. `write` writes one over what it replaces, `write_all` several, or none of them. Both may
    raise `RecordConflict` and `BusError`."""

    def __init__(
        self,
        write: Callable[[Record[T]], Awaitable[Record[T]]],
        write_all: Callable[[Sequence[Record[T]]], Awaitable[Sequence[Record[T]]]],
        *,
        together_s: float = TOGETHER_S,
    ) -> None:
        self._write = write
        self._write_all = write_all
        self._together_s = together_s
        self._waiting: dict[str, _End[T]] = {}
        self._under_way: dict[str, _End[T]] = {}
        self._awake = asyncio.Event()
        self._open = False

    @property
    def has_room(self) -> bool:
        """Whether somebody writes what comes, and it is not too much already."""
        return self._open and len(self._waiting) < MOST

    def add(self, record: Record[T]) -> None:
        """Show a record under the revision of the one that it will replace, and write it soon."""
        if self._end(record) is None:
            self._waiting[record.key] = _End(record, asyncio.get_running_loop().create_future())
            self._awake.set()

    def over(self, stored: Record[T]) -> Record[T]:
        """What is shown for a stored record: the end that will replace it, or itself."""
        end = self._end(stored)
        return stored if end is None else end.record

    async def take_back(self, record: Record[T]) -> Record[T] | None:
        """The record as it is stored from now on, for who removes it: it is not written if it was not yet. None when
        somebody else has changed it."""
        end = self._end(record)
        if end is None:
            return record
        if self._waiting.get(record.key) is end:
            del self._waiting[record.key]
            return record
        return await asyncio.shield(end.written)

    async def run(self) -> None:
        """Write what comes until cancelled, and then the rest."""
        self._open = True
        try:
            while True:
                await self._awake.wait()
                await asyncio.sleep(self._together_s)
                await self._write_out()
                if self._waiting:
                    await asyncio.sleep(_AGAIN_S)
        finally:
            self._open = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AT_THE_END_S):
                    await self._write_out()

    def _end(self, record: Record[T]) -> _End[T] | None:
        """What is to replace the record that is stored under this key and revision."""
        for ends in (self._waiting, self._under_way):
            end = ends.get(record.key)
            if end is not None and end.record.revision == record.revision:
                return end
        return None

    async def _write_out(self) -> None:
        """Write what waits; what cannot be written now waits on."""
        self._awake.clear()
        self._under_way, self._waiting = self._waiting, {}
        ends = list(self._under_way.values())
        try:
            for start in range(0, len(ends), _MOST_TOGETHER):
                await self._write_some(ends[start : start + _MOST_TOGETHER])
        finally:
            # Nobody knows whether what was cancelled is stored: writing it again has one effect.
            again = {key: end for key, end in self._under_way.items() if not end.written.done()}
            self._under_way = {}
            if again:
                self._waiting = {**again, **self._waiting}
                self._awake.set()

    async def _write_some(self, ends: Sequence[_End[T]]) -> None:
        if len(ends) >= _LEAST_TOGETHER:
            with contextlib.suppress(Exception):  # whatever is wrong with one of them, the others are to be written
                for end, written in zip(ends, await self._write_all([end.record for end in ends]), strict=True):
                    end.written.set_result(written)
                return
        # Few, or one of them was written by somebody else: each for itself.
        for start in range(0, len(ends), _MOST_AT_A_TIME):
            await asyncio.gather(*map(self._write_one, ends[start : start + _MOST_AT_A_TIME]))

    async def _write_one(self, end: _End[T]) -> None:
        try:
            end.written.set_result(await self._write(end.record))
        except RecordConflict:
            end.written.set_result(None)
        except (BusUnavailable, StreamFull) as error:
            logger.info("The end of an action is written later: %s", error, extra={"action": "end_not_written"})
        except Exception as error:
            # The others are to be written nevertheless.
            end.written.set_result(None)
            logger.warning(
                "The end of an action could not be written (%s): it is computed again when somebody looks at it.",
                error,
                exc_info=None if isinstance(error, BusError) else error,
                extra={"action": "end_not_written", "key": end.record.key},
            )
