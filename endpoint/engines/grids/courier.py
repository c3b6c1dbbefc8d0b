"""Calls on their way to places on other machines, and their endings on the way back."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import msgspec

from headrace.bus.encodings import INLINE_BYTES, OBJECT
from headrace.bus.payloads import spill_encoded
from headrace.endpoint.engines.engine import Call
from headrace.endpoint.engines.grids.grid import Ending
from headrace.endpoint.engines.grids.orders import Control, Order, Terms, encode
from headrace.endpoint.worker.limits import WorkerLimits
from headrace.endpoint.worker.spool import open_result

_read_ending = msgspec.msgpack.Decoder(Ending).decode


class Courier:
    """Writes orders and reads endings. `environment` is added to what the places have."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        limits: WorkerLimits | None = None,
        most_output_bytes: int = 0,
        spool: Path | None = None,
        inline_bytes: int = INLINE_BYTES,
    ) -> None:
        self._environment = dict(environment or {})
        self._limits = limits or WorkerLimits()
        self._most_output_bytes = most_output_bytes
        self._spool = spool
        self._inline_bytes = inline_bytes
        self._pool = uuid.uuid4().hex
        self.terms = b""
        """Encoded `Terms`, once `open` was called."""

    def open(self, *, control: Control | None = None, is_mpi: bool = False) -> None:
        """Settle what is the same for all calls. Before the first of them; again when something has changed."""
        mark = ""
        if self._spool is not None:
            path = self._spool / f"mark-{self._pool}"
            path.touch(mode=0o600)
            mark = str(path)
        self.terms = encode(
            Terms(
                pool=self._pool,
                environment=self._environment,
                limits=self._limits.as_argument(),
                most_output_bytes=self._most_output_bytes,
                spool=str(self._spool or ""),
                mark=mark,
                inline_bytes=self._inline_bytes,
                control=control,
                is_mpi=is_mpi,
            )
        )

    def order(self, call: Call, *, attempts: int) -> bytes:
        """A call as bytes."""
        return encode(
            Order(
                terms=self.terms,
                key=call.key.bytes,
                function=call.function.bytes,
                encoding=call.encoding,
                arguments=call.arguments,
                options=call.options,
                code=call.code,
                attempts=attempts,
            )
        )

    def ending(self, reply: bytes) -> Ending:
        """Read an ending. A value that is too large for a message goes into the spool, unless the place did that.

        Takes as long as that takes: not for an event loop.
        """
        ending = _read_ending(reply)
        spool = self._spool
        if spool is not None and len(ending.value) > self._inline_bytes and ending.encoding != OBJECT:
            ending.encoding, ending.value = spill_encoded(ending.encoding, ending.value, lambda: open_result(spool))
        return ending

    def close(self) -> None:
        """Remove what was left in the spool."""
        if self._spool is not None:
            with contextlib.suppress(OSError):
                (self._spool / f"mark-{self._pool}").unlink()


def once_name(key: UUID, attempts: int) -> str:
    """What tells that a call that must not run twice has been started."""
    return f"headrace-started-{key.hex}-{attempts}"
