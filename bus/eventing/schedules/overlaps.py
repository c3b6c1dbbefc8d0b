"""What becomes of due ticks while an earlier one's run goes on: the overlap policy, as a change of the progress."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headrace.bus.eventing.schedules.due import Due
from headrace.bus.eventing.schedules.models import ScheduleProgress, ScheduleRecord, TickRun


def decided(record: ScheduleRecord, progress: ScheduleProgress, found: Due, *, over: bool) -> ScheduleProgress:
    """The progress once the due ticks are settled. `over`: whether the run of the last tick has ended.

    A tick that is to be published is the new `run`, without a sequence; the others wait, or are skipped.
    """
    following = msgspec.structs.replace(
        progress, last_ms=max(found.upto_ms, progress.last_ms), missed=progress.missed + found.missed
    )
    if record.overlap == "replace":
        return _replacing(record, following, found.ticks, over=over)
    most = record.most_queued if record.overlap == "queue" else 0
    waiting = (*progress.queued, *found.ticks)
    if over and waiting:
        following = msgspec.structs.replace(following, run=_run(record, waiting[0]))
        waiting = waiting[1:]
    return _skipping(msgspec.structs.replace(following, queued=waiting[:most]), waiting[most:])


def _replacing(
    record: ScheduleRecord, progress: ScheduleProgress, ticks: Sequence[int], *, over: bool
) -> ScheduleProgress:
    if not ticks:
        return progress
    if not over and progress.run is not None:
        progress = msgspec.structs.replace(
            progress,
            replaced_run=progress.run,
            replaced_ms=progress.run.tick_ms,
            replaced=progress.replaced + 1,
        )
    # Of several that are due together the others would be replaced before they start.
    return _skipping(msgspec.structs.replace(progress, run=_run(record, ticks[-1])), ticks[:-1])


def _skipping(progress: ScheduleProgress, ticks: Sequence[int]) -> ScheduleProgress:
    if not ticks:
        return progress
    return msgspec.structs.replace(progress, skipped=progress.skipped + len(ticks), last_skipped_ms=ticks[-1])


def _run(record: ScheduleRecord, tick_ms: int) -> TickRun:
    return TickRun(tick_ms=tick_ms, bus=record.bus, source=str(record.event["source"]))
