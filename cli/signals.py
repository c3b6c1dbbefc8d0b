"""The signals that end a command."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Coroutine


class Signals:
    """SIGTERM, SIGINT and SIGHUP, in order: the first asks for a clean end, the second for an end at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.number = signal.SIGTERM
        """Which one came first."""

    @contextlib.asynccontextmanager
    async def caught(self) -> AsyncIterator[None]:
        """Catch them inside this block."""
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGTERM, signal.SIGINT]
        # A terminal that was closed is like a request to stop, unless `nohup` says otherwise.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def unless_stopped(self, work: Coroutine[object, object, None]) -> bool:
        """Do this work until it is done (True), or cancel it when the first signal comes (False)."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.first.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            return task.done()
        finally:
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.first.is_set():
            self.second.set()
        else:
            self.number = number
            self.first.set()
