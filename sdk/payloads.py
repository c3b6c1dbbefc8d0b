"""Large arguments and results: uploaded before their bundle is sent, fetched when their result is there.

They go by HTTP through the service, piece by piece, from and to temporary files; their values are pickled and
unpickled in the threads of the callers and in threads of their own, never on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import IO, Any, Final, Protocol, TypeVar

from headrace.bus.data import payloads
from headrace.bus.data.arguments import encode_arguments
from headrace.bus.data.encodings import INLINE_BYTES
from headrace.bus.data.payloads import Part, Source, describe
from headrace.bus.errors import (
    ArgumentNotSerialisable,
    DecodeError,
    ObjectDamaged,
    ObjectMissing,
    PayloadTooLarge,
    ResultNotSerialisable,
)
from headrace.bus.names import Address
from headrace.sdk.errors import ClientError, RequestRefused, ServiceUnavailable, ServiceUnreachable
from headrace.sdk.limits import Room, WhenFull
from headrace.sdk.outcomes import check_plain, unreadable

T = TypeVar("T")

AWAY_S: Final = 600.0
"""How long a transfer waits for a service that is away."""

MOST_WAITING_BYTES: Final = 8 << 30
"""What may lie in temporary files, waiting to be uploaded."""

_AT_ONCE = 2
_FRESH_USE_S = 300.0
_WORKED_S = 120.0
"""What went on for so long was answered: a service that is silent is given up earlier."""
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
_FULL = 507
_UNREADABLE: Final = {kind.code: kind for kind in (ObjectMissing, ObjectDamaged)}


def encode_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, inline: int = INLINE_BYTES
) -> tuple[int, bytes, list[Source]]:
    """The arguments of a call as (tag, bytes), and what is to be uploaded before they are sent: nothing, unless they
    are encoded in more than `inline` bytes.

    Raises `ArgumentNotSerialisable`, and what pickling the user's own classes raises.
    """
    try:
        encoding, data = encode_arguments(args, kwargs, most=inline)
        return encoding, data, []
    except PayloadTooLarge:
        pass
    try:
        return payloads.split_arguments(args, kwargs, temporary_file, inline=inline)
    except (OSError, PayloadTooLarge) as error:
        raise ArgumentNotSerialisable(
            f"a large argument cannot be written to a temporary file in {tempfile.gettempdir()}: {error}; make room"
            " there, or set TMPDIR to where there is some"
        ) from error


def temporary_file() -> IO[bytes]:
    """A file that goes when it is closed. Raises `OSError`."""
    return tempfile.TemporaryFile(prefix="headrace-")


class Reception:
    """What has come of an object so far, so that a broken download goes on where it was."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = 0
        self.given_up = False
        self._digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """Take the next piece. Raises `OSError`, and `ClientError` when nobody waits for it any more."""
        if self.given_up:
            raise ClientError("nobody waits for this download any more")
        self._digest.update(piece)
        self.file.write(piece)
        self.size += len(piece)

    def check(self, part: Part) -> None:
        """Raises `ObjectDamaged` unless all of it has come."""
        if (self.size, self._digest.digest()) != (part.size, part.sha256):
            raise ObjectDamaged(
                f"{describe(part)} came with {self.size} bytes and the SHA-256 {self._digest.hexdigest()}"
            )


class ObjectService(Protocol):
    """What is asked of the service (see `headrace.sdk.Client`). Each call may take its time; any thread."""

    def use_objects(self, address: Address, objects: Collection[str]) -> list[str]: ...

    def upload_object(self, source: Source) -> None: ...

    def download_object(self, sha256: str, write: Callable[[bytes], None], start: int) -> None: ...


class Sources:
    """The contents that wait to be uploaded: one for each digest, whoever brings it. Safe from any thread."""

    def __init__(self) -> None:
        self.room = Room(_full_text, most_bytes=MOST_WAITING_BYTES)
        """What they take on the disk, and the bound for it."""
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Source, int]] = {}

    def hold(self, sources: Sequence[Source], when_full: WhenFull, check: Callable[[], None]) -> list[Source]:
        """The sources to use in place of these, until they are let go of as often; waits for room as `when_full` says.

        Raises `QueueFull` and what `check` raises; then all of them are closed.
        """
        held: list[Source] = []
        try:
            for source in sources:
                self.room.take(source.size, when_full, check)
                held.append(self._hold(source))
        except BaseException:
            self.let_go(held)
            for source in sources:
                source.close()
            raise
        return held

    def let_go(self, sources: Sequence[Source]) -> None:
        """Say that nobody needs these here; the last one closes them."""
        for source in sources:
            with self._lock:
                kept, users = self._held.pop(source.sha256)
                if users > 1:
                    self._held[source.sha256] = (kept, users - 1)
            if users == 1:
                kept.close()
                self.room.give(1, kept.size)

    def _hold(self, source: Source) -> Source:
        with self._lock:
            kept, users = self._held.get(source.sha256, (source, 0))
            self._held[source.sha256] = (kept, users + 1)
        if users:
            self.room.give(1, source.size)
            if kept is not source:
                source.close()
        return kept


def _full_text(_: int, size: int) -> str:
    return f"large arguments of {size / 1e6:.0f} MB wait to be uploaded"


class Transfers:
    """The uploads and downloads of one session; at most two of each at once. On the loop."""

    def __init__(self, service: ObjectService, *, away_s: float = AWAY_S) -> None:
        self._service = service
        self._away_s = away_s
        self._uploads: dict[str, asyncio.Task[None]] = {}
        self._up, self._down = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_AT_ONCE)

    async def bring(self, address: Address, sources: Sequence[Source]) -> None:
        """Bring what a bundle needs into the object store; what is there already is not sent again.

        Raises `ClientError` when the service refuses, or was away for too long.
        """
        by_digest = {source.sha256: source for source in sources}
        while True:
            noted_at = time.monotonic()
            missing = await self._while_away(self._service.use_objects, address, list(by_digest))
            for sha256 in missing:
                await self._upload(by_digest[sha256])
            # The note keeps an object for a while from when it was made: after a long upload it is made again.
            if not missing or time.monotonic() - noted_at < _FRESH_USE_S:
                return

    async def value(self, data: bytes, *, plain_only: bool = False) -> Any:
        """The value of a result that lies in the object store; with `plain_only` none that is a pickle.

        Raises `SerializerNotAllowed`, `ObjectMissing`, `ObjectDamaged`, `ResultNotSerialisable` and `ClientError`.
        """
        try:
            part = payloads.whole(data)
        except DecodeError as error:
            raise ResultNotSerialisable(str(error)) from error
        if part is None:
            raise ResultNotSerialisable(
                "the result refers to the object store in a way that this release does not read"
            )
        if plain_only:
            check_plain(part.encoding)
        try:
            async with self._down:
                return await self._fetch(part)
        except OSError as error:
            raise ObjectMissing(
                f"{describe(part)} cannot be written to a temporary file in {tempfile.gettempdir()}: {error}; make"
                " room there, and read the result again with `reload_tasks`"
            ) from error
        except RequestRefused as error:
            kind = _UNREADABLE.get(error.service_code)
            if kind is None:
                raise
            raise kind(f"{describe(part)} cannot be had: {error.detail}") from error

    async def _fetch(self, part: Part) -> Any:
        with temporary_file() as file:
            reception = Reception(file)
            try:
                await self._while_away(self._download, part, reception)
                reception.check(part)
                file.seek(0)
                return await in_thread(_load, part, file)
            finally:
                reception.given_up = True

    def _download(self, part: Part, reception: Reception) -> None:
        self._service.download_object(part.digest, reception.write, reception.size)

    async def _upload(self, source: Source) -> None:
        task = self._uploads.get(source.sha256)
        if task is None:
            task = self._uploads[source.sha256] = asyncio.create_task(self._upload_now(source), name="upload")
            task.add_done_callback(lambda ended: self._uploaded(source.sha256, ended))
        # Several bundles may wait for the same upload: the end of one must not end it for the others.
        await asyncio.shield(task)

    def _uploaded(self, sha256: str, task: asyncio.Task[None]) -> None:
        self._uploads.pop(sha256, None)
        if not task.cancelled():
            task.exception()  # looked at: whoever waits for it is told, and if nobody does any more, nobody needs to be

    async def _upload_now(self, source: Source) -> None:
        async with self._up:
            await self._while_away(self._service.upload_object, source)

    async def _while_away(self, work: Callable[..., T], *arguments: object) -> T:
        """Do a piece of work in a thread, again while the service is away, for so long."""
        until, wait_s = time.monotonic() + self._away_s, _FIRST_WAIT_S
        while True:
            began = time.monotonic()
            try:
                return await in_thread(work, *arguments)
            except (ServiceUnreachable, ServiceUnavailable) as error:
                if time.monotonic() - began > _WORKED_S:
                    until, wait_s = time.monotonic() + self._away_s, _FIRST_WAIT_S
                is_full = isinstance(error, ServiceUnavailable) and error.status == _FULL
                if is_full or time.monotonic() > until:
                    raise
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, wait_s * 2)


def _load(part: Part, file: IO[bytes]) -> Any:
    try:
        return payloads.load_from(part, file)
    except DecodeError as error:
        raise unreadable(error) from error


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """The result of a call in a thread of its own, for which the end of the program does not wait."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(setter: Callable[[Any], None], outcome: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if answer.done() else setter(outcome))

    def run() -> None:
        try:
            tell(answer.set_result, work(*arguments))
        except BaseException as error:
            tell(answer.set_exception, error)

    threading.Thread(target=run, name="headrace transfer", daemon=True).start()
    return await answer
