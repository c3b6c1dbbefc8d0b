"""Where an engine finds out which call printed what, while calls run and when they have ended.

A worker runs one call at a time, so what it writes between the begin and the end of a call is the call's. The worker
says where that was once the call has ended; for the one that runs, the shared counters say where it began. What was
written between two calls (by a thread that was left behind, by an interpreter that fails to start) is nobody's, and
goes to the pool's own log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence

from headrace.bus.tasks.bundles import LogEnd
from headrace.endpoint.engines.engine import Output, OutputCallback
from headrace.endpoint.engines.processes.output import OutputFile, RunOutput
from headrace.endpoint.engines.processes.slots import Job, Slot
from headrace.endpoint.engines.processes.worker_process import WorkerProcess
from headrace.endpoint.worker.frames import PrintedItem

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_IDLE_LOOK_S = 1.0
_FLOOD_LOOK_S = 0.01
_FLOOD_BYTES = 1024 * 1024
_POOL_LOG = 2
_MOST_LOGGED_BYTES = 64 * 1024


class OutputDesk:
    """Reads what the workers in these slots print. `limit` is how many bytes are kept of one run of a task."""

    def __init__(self, slots: Sequence[Slot], on_output: OutputCallback, limit: int) -> None:
        self._slots = slots
        self._on_output = on_output
        self._limit = limit
        self._timer: asyncio.TimerHandle | None = None
        self._is_idle = True
        self._last_run = 0

    def start(self) -> None:
        """Begin to look at the output of running calls, every tenth of a second."""
        self._look_in(_IDLE_LOOK_S)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hurry(self) -> None:
        """Calls are about to run. Cheap."""
        if self._is_idle and self._timer is not None:
            self._timer.cancel()
            self._is_idle = False
            self._look_in(_LOOK_S)

    def on_ended(self, slot: Slot, worker: WorkerProcess, printed: Sequence[PrintedItem]) -> None:
        """Take what calls printed that the worker says have ended. Before their outcomes are made."""
        if worker.output is None:
            return
        out, err = worker.output.files
        for number, out_begin, out_end, err_begin, err_end in printed:
            job = slot.inflight.get(number)
            self._take(slot, job, 0, out, out_begin, out_end)
            self._take(slot, job, 1, err, err_begin, err_end)

    def on_death(self, slot: Slot, worker: WorkerProcess) -> None:
        """Take what a worker has left behind when it died, and let go of its files."""
        if worker.output is None:
            return
        job, begins = slot.inflight.get(worker.running), worker.output_begins
        for stream, file in enumerate(worker.output.files):
            self._take(slot, job, stream, file, begins[stream], file.size)
        worker.output.close()
        worker.output = None

    def finish(self, job: Job, worker: str) -> LogEnd | None:
        """End the output of a run; how much it was."""
        output, job.output = job.output, None
        if output is None:
            return None
        for stream in (0, 1):
            self._give(job, output, stream, worker, output.rest(stream))
        return LogEnd(output.run, output.written[0], output.written[1])

    def look(self) -> int:
        """Take what running calls have printed by now; the most bytes that one of them did."""
        return max((self._look_at(slot, slot.process) for slot in self._slots if slot.process), default=0)

    def _tick(self) -> None:
        try:
            grown = self.look()
        except Exception:
            logger.exception("Reading what tasks print failed; it is tried again.")
            grown = 0
        self._is_idle = not any(slot.inflight for slot in self._slots)
        if grown > _FLOOD_BYTES:
            # It lies in memory until it is read.
            self._look_in(_FLOOD_LOOK_S)
        else:
            self._look_in(_IDLE_LOOK_S if self._is_idle else _LOOK_S)

    def _look_in(self, after_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(after_s, self._tick)

    def _look_at(self, slot: Slot, worker: WorkerProcess) -> int:
        output = worker.output
        if output is None or not output.unread():
            return 0
        number, begins = worker.running, worker.output_begins
        sizes = output.sizes()
        if worker.running != number:
            return 0  # it went on meanwhile, and will say what was whose
        job = None
        if slot.inflight:
            first = next(iter(slot.inflight))
            if number != first:
                return 0  # an earlier one has ended, and its report is on the way
            job = slot.inflight[first]
        elif number:
            return 0
        before = [file.position for file in output.files]
        for stream, file in enumerate(output.files):
            self._take(slot, job, stream, file, begins[stream] if job else sizes[stream], sizes[stream])
        return sum(file.position - position for file, position in zip(output.files, before, strict=True))

    def _take(self, slot: Slot, job: Job | None, stream: int, file: OutputFile, begin: int, end: int) -> None:
        if end < file.position:
            file.rewind()
            begin = 0
        begin = min(begin, end)
        if job is None:
            begin = end
        if begin > file.position:
            self._log(file, begin)
        if job is None or end <= file.position:
            return
        if job.output is None:
            self._last_run = max(self._last_run + 1, time.time_ns() // 1000)
            job.output = RunOutput(self._last_run, self._limit)
        self._give(job, job.output, stream, slot.name, job.output.take(stream, file, end))

    def _give(self, job: Job, output: RunOutput, stream: int, worker: str, piece: tuple[int, bytes]) -> None:
        offset, data = piece
        if data:
            self._on_output(
                Output(
                    key=job.call.key,
                    stream=stream,
                    run=output.run,
                    attempt=job.attempts,
                    offset=offset,
                    time=time.time(),
                    data=data,
                    worker=worker,
                )
            )

    def _log(self, file: OutputFile, end: int) -> None:
        """Let the pool's log have what belongs to no call, the last of it if it is much."""
        start = max(file.position, end - _MOST_LOGGED_BYTES)
        text = file.read(start, end - start)
        if start > file.position:
            text = b"[%d bytes cut]\n" % (start - file.position) + text
        file.advance(end)
        try:
            os.write(_POOL_LOG, text)
        except OSError as error:
            logger.debug("Output of a worker could not be logged: %s", error)
