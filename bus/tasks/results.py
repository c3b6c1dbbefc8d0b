"""Reading results: from the store, live, and both together without a gap.

The results of a bundle are a log of parts 0, 1, 2, …, of which the first writer of each number wins. A reader takes
them in that order until one is missing, so every reader sees the same outcome of a task: the first one in the log.
A part whose MAC does not fit counts as a part without results: whoever could write it gains nothing by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType

from headrace.bus.errors import DecodeError, SignatureInvalid
from headrace.bus.keys import Keys
from headrace.bus.names import Address, ResultAddress, part_of_result, stored_results
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.listening import Subscription
from headrace.bus.nats.message import Message
from headrace.bus.tasks.bundles import ResultPart, Runtime, TaskResult, decode_part

logger = logging.getLogger(__name__)

_NOBODY = Runtime(python="", headrace="")
_MOST_SUBJECTS_PER_GROUP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One part of a bundle's results as it is stored. `believed` is False when its MAC does not fit: it is then empty.

    `sequence` and `time` (RFC 3339) are the stream's: when it was stored.
    """

    number: int
    part: ResultPart
    believed: bool = True
    sequence: int = 0
    time: str = ""

    @property
    def stored_at(self) -> float:
        """When it was stored: unix seconds, the server's clock; 0 when that is not known."""
        return datetime.fromisoformat(self.time).timestamp() if self.time else 0.0


async def read_parts(
    connection: Connection, address: Address, result_key: Keys, *, first_part: int = 0, timeout_s: float = 10.0
) -> list[StoredPart]:
    """The stored parts of a bundle's results, from `first_part` on, in order, until one is missing.

    `timeout_s` is the limit for each of them. Raises `BusUnavailable` and `PermissionDenied`.
    """
    parts: list[StoredPart] = []
    while True:
        subject = address.result_subject(first_part + len(parts))
        stored = await connection.read_last("RESULTS", subject, timeout_s=timeout_s)
        if stored is None:
            return parts
        parts.append(stored_part(stored, result_key))


def stored_part(message: StoredMessage, result_key: Keys) -> StoredPart:
    """Read a message of the stream RESULTS. Raises `DecodeError` when its subject is not one of a result."""
    number = part_of_result(message.subject)
    part, believed = _read(message.subject, message.data, result_key)
    return StoredPart(number=number, part=part, believed=believed, sequence=message.sequence, time=message.time)


def live_part(message: Message, result_key: Keys) -> StoredPart:
    """Read a message that came on `stored.result.…`. Raises `DecodeError` when its subject is not one of a result."""
    subject = message.subject.removeprefix("stored.")
    number = part_of_result(subject)
    part, believed = _read(subject, message.data, result_key)
    return StoredPart(
        number=number,
        part=part,
        believed=believed,
        sequence=int(message.headers.get("Nats-Sequence", "0")),
        time=message.headers.get("Nats-Time-Stamp", ""),
    )


def _read(subject: str, data: bytes, result_key: Keys) -> tuple[ResultPart, bool]:
    try:
        return decode_part(data, subject=subject, key=result_key), True
    except (SignatureInvalid, DecodeError) as error:
        logger.warning(
            "A result part is not believed and is left out: %s",
            error,
            extra={"action": "part_refused", "subject": subject},
        )
        return ResultPart(results=[], total=0, runtime=_NOBODY), False


class ResultCollector:
    """Puts the results of one bundle together from parts that may come out of order and more than once."""

    def __init__(self, address: Address, result_key: Keys, *, total: int | None = None) -> None:
        self.address = address
        self.result_key = result_key
        self.results: dict[int, TaskResult] = {}
        """Results by the task's index."""
        self.runtime = _NOBODY
        """What the results were made on, as the last part says."""
        self.last_stored_at = 0.0
        """When the last part was stored: unix seconds, the server's clock."""
        self.stored_at: dict[int, float] = {}
        """When each result was stored, by the task's index: unix seconds, the server's clock."""
        self.bundle_stored_at = 0.0
        """When the bundle was stored, as its results say it; 0 while there are none."""
        self._total = total
        self._next_part = 0
        self._early: dict[int, StoredPart] = {}

    @property
    def total(self) -> int | None:
        """How many tasks the bundle has, once that is known."""
        return self._total

    @property
    def next_part(self) -> int:
        """The number of the first part that has not been taken yet."""
        return self._next_part

    @property
    def gap(self) -> bool:
        """Whether a part is held back because an earlier one has not come: read the store."""
        return bool(self._early)

    @property
    def complete(self) -> bool:
        """Whether every task has its result."""
        return self._total is not None and len(self.results) >= self._total

    def add(self, stored: StoredPart) -> list[TaskResult]:
        """Take a part; the results that are new by it, each given once. Later parts wait for earlier ones."""
        if stored.number >= self._next_part:
            self._early.setdefault(stored.number, stored)
        fresh: list[TaskResult] = []
        while (ready := self._early.pop(self._next_part, None)) is not None:
            self._next_part += 1
            if ready.believed:
                stored_at = ready.stored_at
                fresh.extend(self._take(ready.part, stored_at))
                self.last_stored_at = max(self.last_stored_at, stored_at)
        return fresh

    async def catch_up(self, connection: Connection, *, timeout_s: float = 10.0) -> list[TaskResult]:
        """Read what is stored beyond the parts that are known, one after the other, until one is missing or nothing is;
        `timeout_s` is the limit for each. Raises `BusUnavailable` and `PermissionDenied`."""
        fresh: list[TaskResult] = []
        while not self.complete:
            subject = self.address.result_subject(self._next_part)
            message = await connection.read_last("RESULTS", subject, timeout_s=timeout_s)
            if message is None:
                break
            fresh.extend(self.add(stored_part(message, self.result_key)))
        return fresh

    def _take(self, part: ResultPart, stored_at: float) -> list[TaskResult]:
        self._total = part.total
        self.bundle_stored_at = part.stored_at
        self.runtime = part.runtime
        fresh = []
        for result in part.results:
            if result.index not in self.results:
                self.results[result.index] = result
                self.stored_at[result.index] = stored_at
                fresh.append(result)
        return fresh


def news_subjects(addresses: Iterable[Address]) -> list[str]:
    """The subjects on which the results of these bundles are heard of while they come in."""
    # One for each bundle, or for a group with many: a shared group (deliveries) is never followed whole.
    by_group: dict[tuple[object, str, object], list[Address]] = {}
    for address in addresses:
        by_group.setdefault((address.endpoint, address.principal, address.group), []).append(address)
    subjects: set[str] = set()
    for group in by_group.values():
        first = group[0]
        if len(group) > _MOST_SUBJECTS_PER_GROUP:
            subjects.add(stored_results(first.endpoint, first.principal, first.group))
        else:
            subjects.update(f"stored.{address.result_subject(0).rpartition('.')[0]}.*" for address in group)
    return sorted(subjects)


class ResultWatch:
    """Follows the results of some bundles from the moment it is entered: `async with ResultWatch(…) as watch`.

    Bundles that existed before need one `catch_up`; those stored after it was entered do not. With `confirmed=False`
    that holds for bundles stored by the same connection only (a server takes a client's commands in order), and saves
    a round trip.

    The results of a bundle of one task are, as a rule, its next part: then that part alone is listened for. A subject
    without a wildcard costs the server next to nothing, and there is one for each action that runs.
    """

    def __init__(
        self, connection: Connection, collectors: Sequence[ResultCollector], *, confirmed: bool = True
    ) -> None:
        self.collectors = list(collectors)
        self._confirmed = confirmed
        self._connection = connection
        self._by_bundle = {collector.address.bundle: collector for collector in collectors}
        self._news = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._next_parts: list[tuple[ResultCollector, int]] = []
        """Where no more than these parts is listened for."""

    async def __aenter__(self) -> ResultWatch:
        # Subscribed, and known to be, before anything is read or sent: what is stored from here on cannot be missed.
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._cancel)
            if len(self.collectors) <= _MOST_SUBJECTS_PER_GROUP and all(each.total == 1 for each in self.collectors):
                await self._listen_to_next()
            else:
                await self._listen_to_all()
            if self._confirmed:
                await self._connection.flush()
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cancel()

    @property
    def complete(self) -> bool:
        """Whether every task of every bundle has its result."""
        return all(collector.complete for collector in self.collectors)

    async def catch_up(self) -> None:
        """Read what was stored before. Raises `BusUnavailable`."""
        if self._has_more:
            await self._listen_to_all()
            await self._connection.flush()
        for collector in self.collectors:
            if not collector.complete:
                await collector.catch_up(self._connection)
        if self._has_more:
            await self.catch_up()

    async def until_complete(self, wait_s: float) -> bool:
        """Wait until every result is there, at most `wait_s`; whether it is. Raises `BusUnavailable`."""
        deadline = asyncio.get_running_loop().time() + wait_s
        while not self.complete:
            self._news.clear()
            if self._has_more or any(collector.gap for collector in self.collectors):
                # A live part was missed (core NATS promises nothing), or not listened for: the store has it.
                await self.catch_up()
                continue
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                # The same again: what was missed shows at the latest here.
                await self.catch_up()
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._news.wait()
        return self.complete

    @property
    def _has_more(self) -> bool:
        """Whether a part that was listened for has come, and was not the last."""
        return any(each.next_part > part and not each.complete for each, part in self._next_parts)

    async def _listen_to_next(self) -> None:
        self._next_parts = [(collector, collector.next_part) for collector in self.collectors]
        for collector, part in self._next_parts:
            subject = f"stored.{collector.address.result_subject(part)}"
            heard = functools.partial(self._take, collector)
            self._subscriptions.append(await self._connection.subscribe(subject, heard))

    async def _listen_to_all(self) -> None:
        self._next_parts = []
        for subject in news_subjects([collector.address for collector in self.collectors]):
            self._subscriptions.append(await self._connection.subscribe(subject, self._on_message))

    def _on_message(self, message: Message) -> None:
        try:
            collector = self._by_bundle.get(ResultAddress.of_subject(message.subject).bundle)
        except DecodeError:
            return
        if collector is not None:
            self._take(collector, message)

    def _take(self, collector: ResultCollector, message: Message) -> None:
        collector.add(live_part(message, collector.result_key))
        self._news.set()

    async def _cancel(self) -> None:
        while self._subscriptions:
            await self._subscriptions.pop().cancel()
