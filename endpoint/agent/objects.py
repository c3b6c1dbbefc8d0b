"""The agent's desk for large payloads: arguments into the spool before a call starts, results out of it when it ends.

A service that is away is waited for, as everywhere in a pool: a call that has not started may expire meanwhile, one
that has ended keeps its result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import msgspec

from headrace.bus.data.encodings import OBJECT
from headrace.bus.data.failures import encode_failure, of_error
from headrace.bus.data.payloads import Large, Part, describe, read_large
from headrace.bus.errors import (
    DecodeError,
    ObjectDamaged,
    ObjectMissing,
    ResultNotSerialisable,
    TaskError,
)
from headrace.bus.names import Address
from headrace.bus.tasks.bundles import TaskResult
from headrace.endpoint.agent.object_service import ObjectService, Reception
from headrace.endpoint.engines.engine import Call
from headrace.endpoint.errors import RegistrationRefused, ServiceAway
from headrace.endpoint.worker.spool import Spool

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
_DAMAGED = 422


class ObjectDesk:
    """Moves large payloads between the service and the spool. `token` gives the pool's code token of the moment."""

    def __init__(self, service: ObjectService, spool: Spool, *, token: Callable[[], str]) -> None:
        self.spool = spool
        self._service = service
        self._token = token
        self._fetches: dict[str, asyncio.Lock] = {}
        self._pinned: dict[UUID, list[str]] = {}
        self._storing: set[str] = set()

    async def fetch(self, call: Call, address: Address) -> None:
        """Bring the large arguments of a call here; they stay until `release`.

        Raises `ObjectMissing` and `ObjectDamaged`.
        """
        try:
            parts = read_large(call.arguments).parts
        except DecodeError as error:
            raise ObjectMissing(str(error)) from error
        for part in parts:
            self.spool.pin(part.digest)
            self._pinned.setdefault(call.key, []).append(part.digest)
            # Calls that share an argument wait for one download.
            lock = self._fetches.setdefault(part.digest, asyncio.Lock())
            try:
                async with lock:
                    if not self.spool.has(part.digest):
                        await self._download(part, address)
            finally:
                if not lock.locked():
                    self._fetches.pop(part.digest, None)

    def release(self, key: UUID) -> None:
        """Say that a call needs its arguments no more."""
        for digest in self._pinned.pop(key, ()):
            self.spool.release(digest)

    async def kept(self, result: TaskResult, address: Address) -> TaskResult:
        """The result to store, once the large value that a worker has put into the spool is in the object store."""
        try:
            large = read_large(result.value)
            value = await self._upload(large, address)
        except DecodeError as error:
            return _failed(result, ObjectMissing(str(error)))
        except TaskError as error:
            return _failed(result, error)
        return msgspec.structs.replace(result, encoding=OBJECT, value=value)

    async def _download(self, part: Part, address: Address) -> None:
        try:
            file = self.spool.new_file(part.digest, part.size)
        except OSError as error:
            raise ObjectMissing(f"{describe(part)} finds no room on the endpoint: {error}") from error
        reception = Reception(file)
        try:
            await self._while_away(self._service.download, f"for {describe(part)}", part, address, reception)
            if (reception.size, reception.sha256) != (part.size, part.sha256):
                raise ObjectDamaged(
                    f"{describe(part)} came with {reception.size} bytes and the SHA-256 {reception.sha256.hex()}"
                )
            self.spool.take(file, part.digest, part.size)
        except RegistrationRefused as error:
            kind = ObjectDamaged if error.status == _DAMAGED else ObjectMissing
            raise kind(f"{describe(part)} cannot be had: {error}") from error
        except OSError as error:
            raise ObjectMissing(f"{describe(part)} finds no room on the endpoint: {error}") from error
        finally:
            reception.given_up = True
            self.spool.drop(file)

    async def _upload(self, large: Large, address: Address) -> bytes:
        parts = large.parts
        files = {part.file for part in parts}
        self._storing |= files
        self.spool.tidy(self._storing)
        try:
            missing = await self._while_away(self._service.missing, "to store a large result", parts, address)
            for part in parts:
                if part.digest in missing:
                    path = self.spool.result(part.file)
                    await self._while_away(self._service.upload, "to store a large result", part, address, path)
        except RegistrationRefused as error:
            raise ResultNotSerialisable(
                f"the result, {' and '.join(map(describe, parts))}, cannot be stored: {error}"
            ) from error
        except OSError as error:
            raise ObjectMissing(f"the value that the worker wrote cannot be read: {error}") from error
        finally:
            self._storing -= files
            for name in files:
                self.spool.result(name).unlink(missing_ok=True)
        return Large(large.encoding, large.data, [Part(p.places, p.sha256, p.size, p.encoding) for p in parts]).encode()

    async def _while_away(self, work: Callable[..., T], what: str, *arguments: object) -> T:
        """Do a piece of work in a thread, again and again while the service is away."""
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                return await asyncio.to_thread(work, self._token(), *arguments)
            except ServiceAway as error:
                logger.warning("Waiting for the service %s: %s", what, error, extra={"action": "service_away"})
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, wait_s * 2)


def _failed(result: TaskResult, error: TaskError) -> TaskResult:
    encoding, value = encode_failure(of_error(error))
    return msgspec.structs.replace(result, state="failed", encoding=encoding, value=value)
