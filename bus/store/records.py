"""Records: typed values under keys, in JetStream key-value buckets (NATS ADR-8).

A bucket is the stream `KV_<name>`; a record is the JSON of a msgspec Struct. Every change is published again on
`changed.<bucket>.<key>`, so watching costs no consumer: read all, listen, read all again after a reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from headrace.bus.errors import AlreadyStored, DecodeError, RecordConflict, RecordMissing
from headrace.bus.nats import pages
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.at_once import commit
from headrace.bus.nats.connection import EXPECTED_SEQUENCE_HEADER, Connection
from headrace.bus.nats.message import Message
from headrace.bus.store.streams import Stream, ensure_stream

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

_PAGE = 500
_OPERATION = "KV-Operation"
_MARKER = "Nats-Marker-Reason"


@dataclass(frozen=True, slots=True)
class Record(Generic[T]):
    """A record as it is stored; `revision` is what `update` and `delete` expect to find."""

    key: str
    value: T
    revision: int


class Records(Generic[T]):
    """The bucket `name` of records of type `kind`. Keys are safe tokens (UUIDs, hex); the caller makes them so."""

    def __init__(self, connection: Connection, name: str, kind: type[T]) -> None:
        self._connection = connection
        self.name = name
        self._stream = f"KV_{name}"
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode

    async def ensure(
        self, *, replicas: int = 1, max_bytes: int = -1, is_fleeting: bool = False, in_batches: bool = False
    ) -> None:
        """Create the bucket where it is missing. What is fleeting need not survive a power cut, and costs less; only
        `in_batches` may several records be stored with one sync."""
        await ensure_stream(
            self._connection,
            Stream(
                self._stream,
                (f"$KV.{self.name}.>",),
                {
                    "max_msgs_per_subject": 1,
                    "discard": "new",
                    "max_bytes": max_bytes,
                    "allow_direct": True,
                    "allow_rollup_hdrs": True,
                    "deny_delete": True,
                    "allow_msg_ttl": True,
                    "subject_delete_marker_ttl": 60_000_000_000,
                    "republish": {"src": f"$KV.{self.name}.>", "dest": f"changed.{self.name}.>"},
                    **({"allow_atomic": True} if in_batches else {}),
                },
                at_creation={"persist_mode": "async"} if is_fleeting and replicas == 1 else {},
            ),
            replicas=replicas,
        )

    async def get(self, key: str) -> Record[T] | None:
        """The record under a key, or None. Raises `DecodeError` when what is stored cannot be read."""
        message = await self._connection.read_last(self._stream, self._subject(key))
        return None if message is None else self._record(message)

    async def need(self, key: str) -> Record[T]:
        """The record under a key. Raises `RecordMissing`."""
        record = await self.get(key)
        if record is None:
            raise RecordMissing(f"no {self.name} record {key!r}")
        return record

    async def create(self, key: str, value: T, *, ttl_s: float | None = None) -> int:
        """Store a record that must not exist yet; gives its revision. Raises `RecordConflict` when it does."""
        try:
            return await self._put(key, value, expected=0, ttl_s=ttl_s)
        except RecordConflict:
            # A deleted key leaves a marker, whose sequence is what the server expects then.
            marker = await self._connection.read_last(self._stream, self._subject(key))
            if marker is None or not _is_deletion(marker.headers):
                raise
            return await self._put(key, value, expected=marker.sequence, ttl_s=ttl_s)

    async def put(self, key: str, value: T, *, ttl_s: float | None = None) -> int:
        """Store a record, whatever is there; with `ttl_s` it goes away by itself after so many seconds (at least 1)."""
        return await self._put(key, value, ttl_s=ttl_s)

    async def update(self, record: Record[T], value: T, *, ttl_s: float | None = None) -> Record[T]:
        """Replace a record that must not have changed since it was read. Raises `RecordConflict`."""
        return Record(record.key, value, await self._put(record.key, value, expected=record.revision, ttl_s=ttl_s))

    async def update_together(self, changes: Sequence[tuple[Record[T], T, float | None]]) -> list[Record[T]]:
        """Replace up to 1 000 records of a bucket that takes batches, with one sync: all of them or none.

        Each comes with its new value, and after how many seconds it goes away by itself.

        Raises `RecordConflict` and `BatchRefused` when one of them has changed since it was read, and `BusUnavailable`
        when nobody knows whether they are replaced.
        """
        messages = [
            (self._subject(record.key), self._encode(value), _conditions(record.revision, ttl_s))
            for record, value, ttl_s in changes
        ]
        last = (await commit(self._connection, messages)).sequence
        first = last - len(messages) + 1
        return [Record(record.key, value, first + place) for place, (record, value, _) in enumerate(changes)]

    async def change(self, key: str, change: Callable[[T], T]) -> T:
        """Read, change and store a record, again and again until nobody came between. Raises `RecordMissing`."""
        while True:
            record = await self.need(key)
            try:
                return (await self.update(record, change(record.value))).value
            except RecordConflict:
                await asyncio.sleep(0)

    async def delete(self, key: str) -> None:
        """Remove a record; nothing happens when there is none."""
        await self._connection.store(self._subject(key), b"", headers={_OPERATION: "DEL"})

    async def remove(self, record: Record[T], *, marker_ttl_s: float | None = None) -> None:
        """Remove a record that must not have changed since it was read. Raises `RecordConflict`.

        What stays is a marker under the key; with `marker_ttl_s`, for keys that do not come again, it goes as well.
        """
        headers = {_OPERATION: "DEL", EXPECTED_SEQUENCE_HEADER: str(record.revision)}
        if marker_ttl_s is not None:
            headers["Nats-TTL"] = f"{max(1, round(marker_ttl_s))}s"
        await self._connection.store(self._subject(record.key), b"", headers=headers)

    async def list(self, prefix: str = "") -> list[Record[T]]:
        """All records whose keys start with `prefix` (whole dotted tokens, such as `a.`), oldest change first."""
        stored = pages.messages(self._connection, self._stream, self._subject(f"{prefix}>"), batch=_PAGE)
        records = [self._record(message) async for page in stored for message in page]
        return [record for record in records if record is not None]

    async def pages(self, keys: str = ">", *, start: int = 1, size: int) -> AsyncIterator[Sequence[Record[T]]]:
        """All records whose keys fit a pattern and that changed at this revision or later, in pages of at most `size`,
        oldest change first."""
        async for page in pages.messages(self._connection, self._stream, self._subject(keys), start=start, batch=size):
            records = [self._record(message) for message in page]
            if found := [record for record in records if record is not None]:
                yield found

    async def several(self, keys: Sequence[str]) -> dict[str, Record[T]]:
        """The records under these keys, of which there are some hundred at most, by their keys; one read."""
        if not keys:
            return {}
        query = {"multi_last": [self._subject(key) for key in dict.fromkeys(keys)], "batch": len(keys)}
        messages, _ = await self._connection.read_many(self._stream, query)
        found = (self._record(message) for message in messages)
        return {record.key: record for record in found if record is not None}

    async def watch(self, on_change: Callable[[str, Record[T] | None], None]) -> Watch[T]:
        """Tell of every record that is there, then of each change (None: deleted or expired), until it is stopped.

        Returns after the first full reading. After a reconnect all is read again, and what has gone is told of.
        """
        watch = Watch(self, on_change)
        await watch.start()
        return watch

    def _subject(self, key: str) -> str:
        return f"$KV.{self.name}.{key}"

    def _record(self, message: StoredMessage) -> Record[T] | None:
        if _is_deletion(message.headers):
            return None
        return self._read(message.subject.split(".", 2)[2], message.data, message.sequence)

    def _read(self, key: str, data: bytes, revision: int) -> Record[T]:
        try:
            return Record(key, self._decode(data), revision)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError(f"the {self.name} record {key!r} cannot be read: {error}", raw=data) from error

    async def _put(self, key: str, value: T, *, expected: int | None = None, ttl_s: float | None = None) -> int:
        headers = _conditions(expected, ttl_s)
        try:
            stored = await self._connection.store(self._subject(key), self._encode(value), headers=headers or None)
        except AlreadyStored as error:  # "discard new" says it in these words
            raise RecordConflict(f"the {self.name} record {key!r} exists already") from error
        return stored.sequence


class Watch(Generic[T]):
    """A standing look at a bucket. `stop` ends it."""

    def __init__(self, records: Records[T], on_change: Callable[[str, Record[T] | None], None]) -> None:
        self._records = records
        self._on_change = on_change
        self._revisions: dict[str, int] = {}
        self._deleted: dict[str, int] | None = None
        """What was heard to be deleted while all is read, with the sequence of that."""
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen first, read then: a change in between is seen twice rather than missed."""
        connection = self._records._connection
        self._subscription = await connection.subscribe(f"changed.{self._records.name}.>", self._heard)
        await connection.flush()
        connection.on_connected.append(self._again.set)
        await self._read_all()
        self._task = asyncio.create_task(self._refresh(), name=f"watch {self._records.name}")

    async def stop(self) -> None:
        """End the watch."""
        connection = self._records._connection
        if self._again.set in connection.on_connected:
            connection.on_connected.remove(self._again.set)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._subscription.cancel()

    async def _refresh(self) -> None:
        while True:
            await self._again.wait()
            self._again.clear()
            try:
                await self._read_all()
            except Exception:
                logger.exception("Reading %s again failed; trying once more.", self._records.name)
                await asyncio.sleep(0.5)
                self._again.set()

    async def _read_all(self) -> None:
        before, deleted = dict(self._revisions), dict[str, int]()
        self._deleted = deleted
        try:
            records = await self._records.list()
        finally:
            self._deleted = None
        there = {record.key for record in records}
        # What was heard of while we read need not be in what was read: it is no less there.
        gone = [key for key, revision in before.items() if key not in there and self._revisions.get(key) == revision]
        for key in gone:
            self._tell(key, None, before[key] + 1)
        for record in records:
            # What was read before it was deleted is no longer there.
            if record.revision > deleted.get(record.key, 0):
                self._tell(record.key, record, record.revision)

    def _heard(self, message: Message) -> None:
        key = message.subject.split(".", 2)[2]
        sequence = int(message.headers.get("Nats-Sequence", "0"))
        if _is_deletion(message.headers):
            if self._deleted is not None:
                self._deleted[key] = sequence
            self._tell(key, None, sequence)
            return
        try:
            self._tell(key, self._records._read(key, message.data, sequence), sequence)
        except DecodeError:
            logger.exception("A changed record cannot be read; keeping what was known before.")

    def _tell(self, key: str, record: Record[T] | None, revision: int) -> None:
        if revision <= self._revisions.get(key, 0):
            return
        if record is None:
            self._revisions.pop(key, None)
        else:
            self._revisions[key] = revision
        self._on_change(key, record)


def _conditions(expected: int | None, ttl_s: float | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    if expected is not None:
        headers[EXPECTED_SEQUENCE_HEADER] = str(expected)
    if ttl_s is not None:
        headers["Nats-TTL"] = f"{max(1, round(ttl_s))}s"
    return headers


def _is_deletion(headers: object) -> bool:
    get = getattr(headers, "get", lambda _name: None)
    return get(_OPERATION) in ("DEL", "PURGE") or get(_MARKER) is not None
