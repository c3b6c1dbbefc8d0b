"""Reading and following the log of one task: from the store, and live without a gap."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from types import TracebackType
from typing import Final

from headrace.bus.errors import DecodeError, SignatureInvalid
from headrace.bus.keys import Keys
from headrace.bus.names import Address
from headrace.bus.nats import pages
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.listening import Subscription
from headrace.bus.nats.message import Message
from headrace.bus.tasks.bundles import LogEnd
from headrace.bus.tasks.logs import LogPiece, LogReader, decode_log

logger = logging.getLogger(__name__)

MOST_BYTES: Final = 16 * 1024 * 1024
"""How much of a log is held at once; older pieces are cut."""

_PAGE = 32
_MOST_LIVE = 256


class LogWatch:
    """The log of one task, from its beginning: `async with LogWatch(…) as watch`, then `read` again and again.

    `news` is set when there is something to read.
    """

    def __init__(self, connection: Connection, address: Address, index: int, result_key: Keys) -> None:
        self.reader = LogReader(index)
        self.news = asyncio.Event()
        self._connection = connection
        self._key = result_key
        self._last = {address.log_subject(place): 0 for place in (index, None)}
        """The last message under each subject that was taken."""
        self._live: collections.deque[Message] = collections.deque()
        self._is_stale = True
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> LogWatch:
        # Subscribed, and known to be, before anything is read: what is stored from here on cannot be missed unseen.
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._cancel)
            for subject in self._last:
                self._subscriptions.append(await self._connection.subscribe(f"stored.{subject}", self._on_message))
            await self._connection.flush()
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cancel()

    def doubt(self) -> None:
        """Look into the store the next time: something may have been missed."""
        self._is_stale = True
        self.news.set()

    async def read(self) -> list[LogPiece]:
        """What is new since the last time; all of it the first time. Raises `BusUnavailable`."""
        self.news.clear()
        pieces: list[LogPiece] = []
        while self._live and not self._is_stale:
            pieces += self._take_live(self._live.popleft())
        if self._is_stale:
            self._is_stale = False
            self._live.clear()
            pieces += await self.read_stored()
        return pieces

    async def read_all(self, end: LogEnd | None, *, within_s: float) -> list[LogPiece]:
        """What is new, once everything is here up to the end of a run, or when the time is over."""
        pieces = await self.read()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while end is not None and not self.reader.has_all(end):
                    await self.news.wait()
                    pieces += await self.read()
        return pieces

    async def read_stored(self) -> list[LogPiece]:
        """What is stored and new, at most the last `MOST_BYTES` of it. Raises `BusUnavailable`."""
        messages = [message for subject in list(self._last) for message in await self._stored(subject)]
        pieces: list[LogPiece] = []
        for message in sorted(messages, key=lambda message: message.sequence):
            pieces += self._take(message.subject, message.sequence, message.data)
        return pieces

    async def _stored(self, subject: str) -> list[StoredMessage]:
        found: collections.deque[StoredMessage] = collections.deque()
        size, start = 0, self._last[subject] + 1
        async for page in pages.messages(self._connection, "LOGS", subject, start=start, batch=_PAGE):
            found.extend(page)
            size += sum(len(message.data) for message in page)
            while size > MOST_BYTES:
                size -= len(found.popleft().data)
        return list(found)

    def _on_message(self, message: Message) -> None:
        if len(self._live) >= _MOST_LIVE:
            # Nobody reads: the store keeps it.
            self._live.clear()
            self._is_stale = True
        if not self._is_stale:
            self._live.append(message)
        self.news.set()

    def _take_live(self, message: Message) -> list[LogPiece]:
        subject = message.subject.removeprefix("stored.")
        last = self._last[subject]
        sequence = int(message.headers.get("Nats-Sequence", "0"))
        if sequence <= last:
            return []
        if int(message.headers.get("Nats-Last-Sequence", "0")) > last:
            # One before it was missed (core NATS promises nothing): the store has both.
            self._is_stale = True
            return []
        return self._take(subject, sequence, message.data)

    def _take(self, subject: str, sequence: int, data: bytes) -> list[LogPiece]:
        self._last[subject] = max(sequence, self._last[subject])
        try:
            return self.reader.take(sequence, decode_log(data, subject=subject, key=self._key))
        except (SignatureInvalid, DecodeError) as error:
            logger.warning(
                "A piece of a log is not believed and is left out: %s",
                error,
                extra={"action": "log_refused", "subject": subject},
            )
            return []

    async def _cancel(self) -> None:
        while self._subscriptions:
            await self._subscriptions.pop().cancel()
