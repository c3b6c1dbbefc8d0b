"""Leases: what is done by one process at a time, whichever, and by another within seconds when that one dies.

A process has one session: a record that it renews, and that the server removes some seconds after the last renewal.
A lease is a record that names a session, written by compare-and-set; it is held while that session lives. So a process
that holds a thousand leases renews one record, and all of them are free together when it is gone.

Nobody's clock is compared with another's. A holder counts from the moment in which it began to renew, the server from
the later one in which the renewal arrived: the holder stops first. A session whose record has gone is over for good,
also when its process still lives: it can only begin another one. A process that was stopped by its machine learns of
this when it goes on; for what must not be done even once in that moment there is `Lease.token`, which only grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from headrace.bus.errors import BusUnavailable, RecordConflict
from headrace.bus.store.records import Record, Records

logger = logging.getLogger(__name__)

SESSION_S: Final = 5.0
"""So long a session lives without being renewed; the server counts in whole seconds."""

_MARGIN_S = 0.5
_LOOK_S = 15.0
"""So often a lease is looked at of which the bus tells nothing: what it tells may be missed."""
_PAUSE_S = 0.2
_MARKER_S = 60.0
_SESSIONS = "session."
_LEASES = "lease."


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lease; under the key of a session, whose that is."""

    session: str
    holder: str
    """The process, as people know it."""
    since: float


class _Session:
    def __init__(self, record: Record[LeaseRecord], deadline: float) -> None:
        self.record = record
        self.deadline = deadline
        self.lost = asyncio.Event()

    @property
    def id(self) -> str:
        return self.record.value.session

    @property
    def alive(self) -> bool:
        return not self.lost.is_set() and time.monotonic() < self.deadline


class Lease:
    """A lease that was taken. `token` is larger than that of every earlier holder."""

    def __init__(self, key: str, token: int, session: _Session) -> None:
        self.key = key
        self.token = token
        self._session = session

    @property
    def held(self) -> bool:
        """Whether it is held at this moment, as far as can be known here."""
        return self._session.alive


class Leases:
    """The leases of this process. While `run` runs, `keep` works."""

    def __init__(
        self, records: Records[LeaseRecord], *, session_s: float = SESSION_S, holder: str | None = None
    ) -> None:
        """`session_s` is a whole number of seconds."""
        self._records = records
        self._session_s = session_s
        self.holder = holder or f"{socket.gethostname()}/{os.getpid()}"
        self._session: _Session | None = None
        self._known: dict[str, LeaseRecord] = {}
        self._waiting: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        """Have a session until cancelled; a lost one is followed by another. Raises `BusUnavailable` when the bus
        cannot be reached at the beginning."""
        self._known = {}
        watch = await self._records.watch(self._changed)
        try:
            while True:
                try:
                    await self._live()
                except (BusUnavailable, TimeoutError) as error:
                    logger.warning("No leases: the bus is away (%s).", error, extra={"action": "leases_wait"})
                await asyncio.sleep(_PAUSE_S)
        finally:
            await watch.stop()

    async def keep(self, key: str, work: Callable[[Lease], Awaitable[None]]) -> None:
        """Work under the lease of this key whenever it is free, until the work ends by itself.

        The work is cancelled when the lease is lost, and begins anew once it is taken again. It must not take longer
        than a second to end when it is cancelled. A key is kept once in a process at a time.
        """
        while True:
            lease = await self._take(key)
            try:
                if await self._covered(work, lease):
                    return
            finally:
                await self._release(lease)

    async def _live(self) -> None:
        name = uuid.uuid4().hex
        value = LeaseRecord(session=name, holder=self.holder, since=time.time())
        begun = time.monotonic()
        async with asyncio.timeout(self._session_s):
            revision = await self._records.create(f"{_SESSIONS}{name}", value, ttl_s=self._session_s)
        session = _Session(Record(f"{_SESSIONS}{name}", value, revision), begun + self._session_s - _MARGIN_S)
        self._session = session
        self._wake_all()
        try:
            await self._renew(session)
        finally:
            session.lost.set()
            self._session = None
            # Whoever waits for our leases need not wait for the time to pass.
            with contextlib.suppress(BusUnavailable, RecordConflict, TimeoutError):
                async with asyncio.timeout(_MARGIN_S):
                    await self._records.remove(session.record, marker_ttl_s=_MARKER_S)

    async def _renew(self, session: _Session) -> None:
        """Renew until it is lost."""
        while True:
            await asyncio.sleep(self._session_s / 5)
            begun = time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, session.deadline - begun)):
                    # Compared and set: a session that the server has removed does not come to life again.
                    session.record = await self._records.update(
                        session.record, session.record.value, ttl_s=self._session_s
                    )
            except (BusUnavailable, RecordConflict, TimeoutError) as error:
                logger.warning(
                    "The leases of this process are lost (%s); what they cover is stopped.",
                    error or "no answer in time",
                    extra={"action": "leases_lost"},
                )
                return
            session.deadline = begun + self._session_s - _MARGIN_S

    async def _take(self, key: str) -> Lease:
        if key in self._waiting:
            raise ValueError(f"the lease {key!r} is kept twice in one process")
        news = self._waiting[key] = asyncio.Event()
        try:
            while True:
                session, asked = self._session, not news.is_set()
                news.clear()
                if session is not None and session.alive and (asked or self._seems_free(key, session)):
                    token = await self._try(key, session)
                    if token is not None and session.alive:
                        return Lease(key, token, session)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await news.wait()
        finally:
            del self._waiting[key]

    def _seems_free(self, key: str, session: _Session) -> bool:
        known = self._known.get(f"{_LEASES}{key}")
        return known is None or known.session == session.id or f"{_SESSIONS}{known.session}" not in self._known

    async def _try(self, key: str, session: _Session) -> int | None:
        place = f"{_LEASES}{key}"
        mine = LeaseRecord(session=session.id, holder=self.holder, since=time.time())
        try:
            found = await self._records.get(place)
            if found is None:
                return await self._records.create(place, mine)
            if found.value.session == session.id:
                return found.revision  # taken, and the answer was lost
            # In one read: of two, one might be answered by a server that lags behind.
            both = await self._records.several([place, f"{_SESSIONS}{found.value.session}"])
            if len(both) == 2 or place not in both:
                return None
            return (await self._records.update(both[place], mine)).revision
        except (RecordConflict, BusUnavailable):
            return None

    async def _covered(self, work: Callable[[Lease], Awaitable[None]], lease: Lease) -> bool:
        """Work until that ends or the lease is lost; says whether the work has ended."""
        logger.debug("Took the lease %s.", lease.key, extra={"action": "lease_taken", "token": lease.token})
        working = asyncio.ensure_future(work(lease))
        lost = asyncio.ensure_future(lease._session.lost.wait())
        try:
            await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            working.result()
            return True
        finally:
            lost.cancel()
            working.cancel()
            await asyncio.wait({working, lost})
            if not working.cancelled():
                working.exception()  # told already, or what a loss has caused

    async def _release(self, lease: Lease) -> None:
        place = f"{_LEASES}{lease.key}"
        record = Record(place, LeaseRecord(session=lease._session.id, holder=self.holder, since=0.0), lease.token)
        if lease.held:
            with contextlib.suppress(BusUnavailable, RecordConflict, TimeoutError):
                async with asyncio.timeout(_MARGIN_S):
                    await self._records.remove(record, marker_ttl_s=_MARKER_S)

    def _changed(self, place: str, record: Record[LeaseRecord] | None) -> None:
        before = self._known.pop(place, None)
        if record is not None:
            self._known[place] = record.value
        if place.startswith(_LEASES):
            self._wake(place.removeprefix(_LEASES))
        elif record is None and before is not None:
            self._wake_all()

    def _wake(self, key: str) -> None:
        if key in self._waiting:
            self._waiting[key].set()

    def _wake_all(self) -> None:
        for news in self._waiting.values():
            news.set()


async def holder_of(records: Records[LeaseRecord], key: str) -> LeaseRecord | None:
    """Who holds a lease now, or None. Raises `BusUnavailable`."""
    found = await records.get(f"{_LEASES}{key}")
    if found is None or await records.get(f"{_SESSIONS}{found.value.session}") is None:
        return None
    return found.value
