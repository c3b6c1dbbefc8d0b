"""The minder: a thread that watches over the one that runs calls."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING

from headrace.endpoint.worker.printed import flush_c_lines

if TYPE_CHECKING:
    from headrace.endpoint.worker.loop import Worker

TICK_S = 0.025
"""No result waits longer for the end of a call that takes its time."""
_STALL_S = 0.05
_SHOW_S = 0.25


class Minder(threading.Thread):
    """Watches over the main thread. Sleeps for good while there is nothing that could become late."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(name="minder", daemon=True)
        self._worker = worker
        self._asleep = False
        self._stalled = -1
        self._alarm, self._bell = os.pipe()

    def wake(self) -> None:
        """Say that calls are about to run."""
        if self._asleep:
            self._asleep = False
            os.write(self._bell, b"!")

    def run(self) -> None:
        """Until the engine is gone."""
        if self._worker.keeps_output:
            flush_c_lines()  # here, so that nobody waits for it
        connection = self._worker.connection
        poll = select.poll()
        poll.register(self._alarm, select.POLLIN)
        while True:
            # While a call takes long, nobody else reads what the engine sent before it knew.
            poll.register(connection, select.POLLRDHUP | (select.POLLIN if self._is_stalled() else 0))
            # Asleep first, then the look whether to stay awake: `wake` goes the other way round, so one sees the other.
            self._asleep = True
            self._asleep = not self._worker.working or self._is_stalled()
            for fd, event in poll.poll(self._longest_wait_ms()):
                if fd == self._alarm:
                    os.read(self._alarm, 64)
                elif event & ~select.POLLIN:
                    if self._worker.leaving:
                        return
                    kill_own_group()
                elif self._is_stalled():
                    self._worker.give_back(self._stalled)
            self._tick()

    def _longest_wait_ms(self) -> float | None:
        if not self._asleep:
            return TICK_S * 1000
        return _SHOW_S * 1000 if self._worker.keeps_output and self._worker.working else None

    def _is_stalled(self) -> bool:
        return self._worker.working and self._worker.running == self._stalled

    def _tick(self) -> None:
        worker, running = self._worker, self._worker.running
        if not worker.working:
            return
        if running not in (0, self._stalled) and time.perf_counter() - worker.running_since > _STALL_S:
            self._stalled = running
            worker.give_back(running)
        elif worker.has_stale_results():
            worker.flush()
        elif self._is_stalled():
            worker.show_output()


def kill_own_group() -> None:
    """The engine is gone: end at once, with everything that calls have started."""
    os.kill(0, signal.SIGKILL)
