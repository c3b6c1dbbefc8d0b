"""Which ticks are published now, and which are given up: the misfire policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.bus.eventing.schedules.models import ScheduleRecord
from headrace.bus.eventing.schedules.timing import Timing

MOST_AT_ONCE = 1000
"""Ticks that are published together. More come in the next round."""

_LOOKS_BACK_MS = (60_000, 3_600_000, 86_400_000, 32 * 86_400_000, 367 * 86_400_000)
_MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done now: `ticks` are published in this order, and nothing else up to `upto_ms` ever is."""

    ticks: tuple[int, ...]
    upto_ms: int
    missed: int
    """How many are given up; of very many only the first 1 000 are counted."""
    next_ms: int | None
    """The tick after that, or None when there is no more."""


def due(record: ScheduleRecord, timing: Timing, *, after_ms: int, now_ms: int) -> Due:
    """What is to be published at this moment, when all is done up to `after_ms`."""
    late_ms = now_ms - record.grace_ms
    first = timing.next(after_ms)
    if first is None or timing.due(first) > now_ms:
        return Due((), after_ms, 0, first)
    # What was missed: a jitter only delays, so whatever is missed is a tick before `late_ms`.
    kept, missed, upto_ms = _missed(record, timing, after_ms, late_ms)
    ticks = [*kept, *_punctual(timing, upto_ms, now_ms, MOST_AT_ONCE - len(kept))]
    upto_ms = ticks[-1] if ticks else upto_ms
    return Due(tuple(ticks), upto_ms, missed, timing.next(upto_ms))


def _punctual(timing: Timing, after_ms: int, now_ms: int, most: int) -> Iterator[int]:
    for tick in timing.ticks(after_ms, now_ms):
        # In their order: one whose jitter is short waits for the one before it.
        if most <= 0 or timing.due(tick) > now_ms:
            return
        most -= 1
        yield tick


def _missed(record: ScheduleRecord, timing: Timing, after_ms: int, late_ms: int) -> tuple[list[int], int, int]:
    """The missed ticks that are published all the same, how many are not, and up to where that settles it."""
    limit = {"skip": 0, "once": 1, "all": record.most_missed}[record.misfire]
    horizon_ms = _missed_until(timing, after_ms, late_ms)
    if horizon_ms <= after_ms:
        return [], 0, after_ms
    kept = _last(timing, after_ms, horizon_ms, limit)
    return kept, _count(timing, after_ms, kept[0] - 1 if kept else horizon_ms), horizon_ms


def _missed_until(timing: Timing, after_ms: int, late_ms: int) -> int:
    """The last tick that is too late, counted with its jitter; `after_ms` when there is none."""
    last = _last(timing, after_ms, late_ms - timing.jitter_ms - 1, 1)
    upto_ms = last[0] if last else after_ms
    for tick in timing.ticks(upto_ms, late_ms):
        if timing.due(tick) >= late_ms:
            break
        upto_ms = tick
    return upto_ms


def _last(timing: Timing, after_ms: int, until_ms: int, count: int) -> list[int]:
    """The last ticks in a time that may be very long: looked for from its end, in steps that grow."""
    if count == 0 or until_ms <= after_ms:
        return []
    for look_ms in _LOOKS_BACK_MS:
        begin_ms = until_ms - look_ms
        if begin_ms <= after_ms:
            break
        found = deque(timing.ticks(begin_ms, until_ms), maxlen=count)
        if len(found) == count:
            return list(found)
    return list(deque(timing.ticks(after_ms, until_ms), maxlen=count))


def _count(timing: Timing, after_ms: int, until_ms: int) -> int:
    number = 0
    for number, _ in enumerate(timing.ticks(after_ms, until_ms), start=1):  # the last one counts
        if number == _MOST_COUNTED:
            break
    return number
