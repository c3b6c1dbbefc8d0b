"""Dealing calls to workers: short ones in frames, as evenly as the estimates allow, the others one at a time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from headrace.endpoint.engines.processes.backlog import Backlog
from headrace.endpoint.engines.processes.slots import Slot
from headrace.endpoint.worker.frames import Work

_FRAME_S = 0.005
_FRAME_BYTES = 1_000_000
_OVERHEAD_S = 20e-6
_MOST_FUNCTIONS = 1_000


def stage(slots: Sequence[Slot], room: list[tuple[float, int]], backlog: Backlog) -> None:
    """Put calls on the stage of slots that have `room` (how much they have to do, in seconds, and their number)."""
    heapq.heapify(room)
    while room:
        job = backlog.next_job()
        if job is None:
            return
        backlog_s, number = room[0]
        slot = slots[number]
        estimate_s = job.function.estimate_s
        if estimate_s is None or estimate_s > _FRAME_S or job.alone:
            if backlog_s > 0:  # nobody is idle; it goes first as soon as somebody is
                backlog.held = job
                return
            job.worth_s = estimate_s or _FRAME_S
            slot.staged.append(job)
            slot.is_exclusive = True
            heapq.heappop(room)
            continue
        size = len(job.call.arguments)
        if slot.staged and slot.staged_bytes + size > _FRAME_BYTES:
            backlog.held = job
            heapq.heappop(room)
            continue
        job.worth_s = estimate_s + _OVERHEAD_S
        slot.staged.append(job)
        slot.staged_bytes += size
        backlog_s += job.worth_s
        if backlog_s > slot.backlog_s + _FRAME_S or len(slot.staged) >= slot.share:
            heapq.heappop(room)
        else:
            heapq.heapreplace(room, (backlog_s, number))


def pack(slot: Slot, *, in_sandboxes: bool) -> Work:
    """The frame of the calls that are staged; from here on they are in flight."""
    calls, functions = [], []
    sandboxes: dict[int, str] = {}
    specifications: dict[int, bytes] = {}
    number = slot.sent
    # Nothing that was sent before is left to run, so nothing needs the functions sent before.
    forget = len(slot.functions) > _MOST_FUNCTIONS and not slot.inflight
    if forget:
        slot.functions.clear()
    for job in slot.staged:
        call = job.call
        number += 1
        slot.inflight[number] = job
        slot.backlog_s += job.worth_s
        place = slot.functions.get(call.function)
        if place is None:
            place = slot.functions[call.function] = number
            functions.append((place, call.code))
        calls.append((number, place, call.encoding, call.arguments, call.options.json_result))
        if in_sandboxes:
            sandboxes[number] = job.sandbox
        if call.options.resource_specification:
            specifications[number] = call.options.resource_specification
    slot.sent = number
    slot.share -= len(calls)
    slot.frame_ends.append(number)
    slot.staged, slot.staged_bytes = [], 0
    return Work(calls, functions, forget, sandboxes=sandboxes, specifications=specifications)
