"""The object store: payloads that are too large for a message, as chunks in the stream OBJECTS.

    objects      `<owner>.<sha256>`                  a record: which upload holds the content, and when it was used
    object_uses  `<owner>.<sha256>.<bundle>.<kind>`  a record: this bundle needs it, `a` as argument, `r` as result
    OBJECTS      `object.<upload>.<n>`               the chunks of one upload

The creation of the first record decides between several uploads of one content: the others remove their chunks. An
object goes when no bundle needs it any more, and it was not used for a while; see `ObjectStore.sweep`. All of it
needs the account that JetStream lives in.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
import uuid
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from headrace.bus import names
from headrace.bus.errors import (
    AlreadyStored,
    BusError,
    ObjectDamaged,
    ObjectMissing,
    PayloadTooLarge,
    RecordConflict,
)
from headrace.bus.names import Address, token
from headrace.bus.nats import pages
from headrace.bus.nats.answers import Stored, StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.store.models import ObjectRecord, ObjectUseRecord
from headrace.bus.store.records import Record
from headrace.bus.store.streams import purge
from headrace.bus.store.tables import Tables

logger = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1024 * 1024
"""Not more: while a chunk is under way, the other messages of the connection wait."""

Kind = Literal["a", "r"]

_CHUNKS_IN_FLIGHT = 4
_TOUCH_SHARE = 4
_LOOKS_AT_ONCE = 16
_CHECKSUM = "Headrace-Checksum"
_MARKER_S = 60.0
_RESULT_LOOK_GRACES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep removed."""

    uses: int = 0
    objects: int = 0
    uploads: int = 0


class ObjectStore:
    """The objects behind a connection. `grace_s` is how long an object may be without any use before it goes.

    `sha256` is 64 hexadecimal digits everywhere, `owner` a plain URN.
    """

    def __init__(self, connection: Connection, tables: Tables, *, grace_s: float = 900.0) -> None:
        self._connection = connection
        self._objects = tables.objects
        self._uses = tables.object_uses
        self._grace_s = grace_s
        self._next_looks: dict[str, float] = {}
        """When to look again whether results that were there are kept: they stay for days."""

    async def find(self, owner: str, sha256: str) -> ObjectRecord:
        """The object, of which every chunk is there. Raises `ObjectMissing`, `ObjectDamaged` and `BusUnavailable`."""
        found = await self._objects.get(_key(owner, sha256))
        if found is None:
            raise ObjectMissing(f"there is no object {sha256}: it was never stored, or nothing has needed it for long")
        if found.value.damaged:
            raise ObjectDamaged(f"of object {sha256} a part is not what was stored; submit it again")
        if not await self._is_whole(found.value):
            raise ObjectMissing(f"of object {sha256} a part is not in the store any more; submit it again")
        return found.value

    async def put(self, owner: str, sha256: str, pieces: AsyncIterator[bytes], *, most_bytes: int) -> ObjectRecord:
        """Store what `pieces` give. Never more than a few chunks of it are in memory.

        Raises `ObjectDamaged` when it is not what the digest says, `PayloadTooLarge`, `StreamFull`, `BusUnavailable`
        and what `pieces` raise; nothing is left then.
        """
        chunk_bytes = min(CHUNK_BYTES, self._connection.max_payload // 2)
        upload = _Upload(self._connection, chunk_bytes=chunk_bytes, most_bytes=most_bytes)
        try:
            await upload.take(pieces)
            if upload.sha256 != sha256:
                raise ObjectDamaged(f"the content has the SHA-256 {upload.sha256}, not {sha256} as was said")
            now = time.time()
            mine = ObjectRecord(
                size=upload.size,
                upload=upload.id,
                chunks=upload.chunks,
                chunk_bytes=chunk_bytes,
                created_at=now,
                used_at=now,
            )
            record = await self._publish(_key(owner, sha256), mine)
        except BaseException:
            await asyncio.shield(self._purge_quietly(upload.id))
            raise
        if record.upload != upload.id:
            await self._purge_quietly(upload.id)
        return record

    async def read(self, owner: str, sha256: str, record: ObjectRecord, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The content from byte `start` on, a few chunks ahead.

        A chunk that is not what was stored is not given out, and the object counts as damaged from then on. (The
        digest of the whole is compared by whoever reads.) Raises `ObjectMissing`, `ObjectDamaged` and `BusUnavailable`.
        """
        ahead: deque[asyncio.Task[StoredMessage | None]] = deque()
        first, skip = divmod(start, record.chunk_bytes)
        wanted = iter(range(first, record.chunks))
        try:
            while True:
                while len(ahead) < _CHUNKS_IN_FLIGHT and (number := next(wanted, None)) is not None:
                    reading = self._connection.read_last("OBJECTS", names.object_chunk(record.upload, number))
                    ahead.append(asyncio.create_task(reading, name="read chunk"))
                if not ahead:
                    return
                message = await ahead.popleft()
                if message is None:
                    raise ObjectMissing("a part of the object is not in the store any more")
                if message.headers.get(_CHECKSUM) != _checksum(message.data):
                    await self._note_damage(_key(owner, sha256), record)
                    raise ObjectDamaged(f"of object {sha256} a part is not what was stored")
                yield message.data[skip:] if skip else message.data
                skip = 0
        finally:
            await _drop(ahead)

    async def use(self, owner: str, sha256s: Collection[str], address: Address, kind: Kind) -> list[str]:
        """Note that a bundle needs these objects; those of them that have to be uploaded. Raises `BusUnavailable`.

        Noted first, looked for then: what is found from here on stays as long as the bundle.
        """
        use = ObjectUseRecord(endpoint_id=address.endpoint, pool=address.pool, group=address.group, since=time.time())
        missing = []
        for sha256 in dict.fromkeys(sha256s):
            await self._uses.put(_use_key(owner, sha256, address.bundle, kind), use)
            if not await self._touch(_key(owner, sha256)):
                missing.append(sha256)
        return missing

    async def check_use(self, owner: str, sha256: str, bundle: UUID, kind: Kind) -> ObjectUseRecord | None:
        """The note that this bundle needs this object, if there is one. Raises `BusUnavailable`."""
        found = await self._uses.get(_use_key(owner, sha256, bundle, kind))
        return None if found is None else found.value

    async def sweep(self) -> Swept:
        """Remove uses of bundles that are gone, objects without any use, and chunks of uploads that nobody finished.

        What is younger than the grace stays. Any number of services may do this at once. Raises `BusUnavailable`.
        """
        now = time.time()
        uses = await self._uses.list()
        self._next_looks = {use.key: at for use in uses if (at := self._next_looks.get(use.key, 0.0)) > now}
        old = [use for use in uses if use.value.since < now - self._grace_s and use.key not in self._next_looks]
        gone = await self._gone(old)
        removed = [await _removed(self._uses.remove(use, marker_ttl_s=_MARKER_S)) for use in gone]
        dead = {use.key for use in gone}
        needed = {use.key.rsplit(".", 2)[0] for use in uses if use.key not in dead}
        objects = 0
        for record in await self._objects.list():
            if record.key in needed or record.value.used_at >= now - self._grace_s:
                continue
            # Somebody who has begun to use it meanwhile has changed the record: then this is refused, and it stays.
            if await _removed(self._objects.remove(record, marker_ttl_s=_MARKER_S)):
                objects += 1
                await purge(self._connection, "OBJECTS", names.object_chunks(record.value.upload))
        uploads = await self._sweep_uploads()
        return Swept(uses=sum(removed), objects=objects, uploads=uploads)

    async def _publish(self, key: str, mine: ObjectRecord) -> ObjectRecord:
        """Make this the object, unless there is a whole one already; the record that counts."""
        while True:
            try:
                await self._objects.create(key, mine)
                return mine
            except RecordConflict:
                found = await self._objects.get(key)
            if found is None:
                continue
            whole = await self._is_whole(found.value)
            kept = msgspec.structs.replace(found.value, used_at=mine.used_at) if whole else mine
            try:
                await self._objects.update(found, kept)
            except RecordConflict:
                continue
            if not whole:
                await self._purge_quietly(found.value.upload)
            return kept

    async def _touch(self, key: str) -> bool:
        """Whether the object is there, whole; noted as used, if the last note is not fresh."""
        while True:
            found = await self._objects.get(key)
            if found is None or not await self._is_whole(found.value):
                return False
            now = time.time()
            if found.value.used_at > now - self._grace_s / _TOUCH_SHARE:
                return True
            try:
                await self._objects.update(found, msgspec.structs.replace(found.value, used_at=now))
                return True
            except RecordConflict:
                continue

    async def _note_damage(self, key: str, record: ObjectRecord) -> None:
        found = await self._objects.get(key)
        if found is not None and found.value.upload == record.upload:
            logger.error("An object is damaged: %s.", key, extra={"action": "object_damaged", "object": key})
            # A change in between is a new use: whoever reads it for that finds the damage again.
            await _removed(self._objects.update(found, msgspec.structs.replace(found.value, damaged=True)))

    async def _is_whole(self, record: ObjectRecord) -> bool:
        if record.damaged:
            return False
        return len(await self._subjects(names.object_chunks(record.upload))) == record.chunks

    async def _subjects(self, pattern: str) -> list[str]:
        return [subject async for subject in pages.subjects(self._connection, "OBJECTS", pattern)]

    async def _gone(self, uses: list[Record[ObjectUseRecord]]) -> list[Record[ObjectUseRecord]]:
        gone: list[Record[ObjectUseRecord]] = []
        for start in range(0, len(uses), _LOOKS_AT_ONCE):
            some = uses[start : start + _LOOKS_AT_ONCE]
            live = await asyncio.gather(*(self._is_live(use) for use in some))
            gone += [use for use, lives in zip(some, live, strict=True) if not lives]
            again_at = time.time() + self._grace_s * _RESULT_LOOK_GRACES
            self._next_looks.update(
                {use.key: again_at for use, lives in zip(some, live, strict=True) if lives and use.key.endswith(".r")}
            )
        return gone

    async def _is_live(self, use: Record[ObjectUseRecord]) -> bool:
        """Whether the bundle is queued or runs, or, for a result, whether its results are kept."""
        owner, _, bundle, kind = use.key.split(".")
        address = Address(
            endpoint=use.value.endpoint_id,
            pool=use.value.pool,
            principal=names.text(owner),
            group=use.value.group,
            bundle=UUID(bundle),
        )
        # In this order: what leaves the queue has its results stored before.
        if await self._connection.read_last("TASKS", address.task_subject) is not None:
            return True
        return kind == "r" and await self._connection.read_last("RESULTS", address.result_subject(0)) is not None

    async def _sweep_uploads(self) -> int:
        chunks = await self._subjects(names.ALL_OBJECT_CHUNKS)
        # Read after the chunks: what was finished in between is not taken for abandoned.
        known = {record.value.upload for record in await self._objects.list()}
        abandoned = {subject.split(".")[1] for subject in chunks} - known
        info = await self._connection.api("STREAM.INFO.OBJECTS")
        now = datetime.fromisoformat(info["ts"]).timestamp()
        purged = 0
        for upload in abandoned:
            last, _ = await self._connection.read_many("OBJECTS", {"last_by_subj": names.object_chunks(upload)})
            if last and last[0].stored_at < now - self._grace_s:
                await purge(self._connection, "OBJECTS", names.object_chunks(upload))
                purged += 1
        return purged

    async def _purge_quietly(self, upload: str) -> None:
        with contextlib.suppress(BusError):  # left to the sweep
            await purge(self._connection, "OBJECTS", names.object_chunks(upload))


class _Upload:
    """Cuts what comes into chunks and stores them, a few at a time."""

    def __init__(self, connection: Connection, *, chunk_bytes: int, most_bytes: int) -> None:
        self.id = uuid.uuid4().hex
        self.size = 0
        self.chunks = 0
        self._connection = connection
        self._chunk_bytes = chunk_bytes
        self._most_bytes = most_bytes
        self._digest = hashlib.sha256()
        self._under_way: deque[asyncio.Task[Stored | None]] = deque()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def take(self, pieces: AsyncIterator[bytes]) -> None:
        chunk = bytearray()
        try:
            async for piece in pieces:
                self.size += len(piece)
                if self.size > self._most_bytes:
                    text = f"an object may have {self._most_bytes} bytes at most"
                    raise PayloadTooLarge(text, size=self.size, limit=self._most_bytes)
                chunk += piece
                while len(chunk) >= self._chunk_bytes:
                    await self._store(bytes(chunk[: self._chunk_bytes]))
                    del chunk[: self._chunk_bytes]
            if chunk or not self.chunks:
                await self._store(bytes(chunk))
            while self._under_way:
                await self._under_way.popleft()
        finally:
            # Not cancelled: the server may be about to store what was sent, and what is removed must not come after it.
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _store(self, chunk: bytes) -> None:
        # In a thread: the others of this service are not to wait for a millisecond with each chunk.
        await asyncio.to_thread(self._digest.update, chunk)
        while len(self._under_way) >= _CHUNKS_IN_FLIGHT:
            await self._under_way.popleft()
        subject = names.object_chunk(self.id, self.chunks)
        self.chunks += 1
        self._under_way.append(asyncio.create_task(self._store_once(subject, chunk), name="store chunk"))

    async def _store_once(self, subject: str, chunk: bytes) -> Stored | None:
        try:
            return await self._connection.store(subject, chunk, headers={_CHECKSUM: _checksum(chunk)})
        except AlreadyStored:
            return None  # by a try whose answer was lost: nobody else knows the subject


async def _removed(removal: Awaitable[object]) -> bool:
    try:
        await removal
    except RecordConflict:
        return False
    return True


def _checksum(chunk: bytes) -> str:
    return str(zlib.crc32(chunk))


async def _drop(tasks: deque[asyncio.Task[Any]]) -> None:
    left = list(tasks)
    tasks.clear()
    for task in left:
        task.cancel()
    if left:
        await asyncio.gather(*left, return_exceptions=True)


def _key(owner: str, sha256: str) -> str:
    return f"{token(owner)}.{sha256}"


def _use_key(owner: str, sha256: str, bundle: UUID, kind: Kind) -> str:
    return f"{token(owner)}.{sha256}.{bundle.hex}.{kind}"
