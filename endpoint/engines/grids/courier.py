"""Calls on their way to places on other machines, and their endings on the way back."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from headrace.bus.data.encodings import INLINE_BYTES, OBJECT
from headrace.bus.data.payloads import spill_encoded
from headrace.bus.functions.code import FunctionCode
from headrace.endpoint.engines.engine import Call
from headrace.endpoint.engines.grids.grid import Ending
from headrace.endpoint.engines.grids.orders import Boxed, Control, Order, Parcel, Terms, encode
from headrace.endpoint.engines.means import Means
from headrace.endpoint.worker.limits import WorkerLimits
from headrace.endpoint.worker.spool import open_result

_read_endings = msgspec.msgpack.Decoder(list[Ending]).decode


class Courier:
    """Packs parcels and reads endings. `environment` is added to what places have; `python` replaces theirs."""

    def __init__(
        self,
        *,
        python: str = "",
        environment: Mapping[str, str] | None = None,
        limits: WorkerLimits | None = None,
        most_output_bytes: int = 0,
        spool: Path | None = None,
        inline_bytes: int = INLINE_BYTES,
        container: Boxed | None = None,
    ) -> None:
        self._python = python
        self._environment = dict(environment or {})
        self._limits = limits or WorkerLimits()
        self._most_output_bytes = most_output_bytes
        self._spool = spool
        self._inline_bytes = inline_bytes
        self._container = container
        self.pool = uuid.uuid4().hex
        """What tells this pool, since its last start, from all others."""
        self.terms = b""
        """Encoded `Terms`, once `open` was called."""

    @classmethod
    def of(cls, means: Means, container: Boxed | None = None) -> Courier:
        """For the pool that has these means; `container` is what its workers are put into."""
        return cls(
            python="" if means.python == sys.executable else means.python,
            environment=means.added_environment,
            limits=means.limits,
            most_output_bytes=means.most_output_bytes if means.on_output else 0,
            spool=means.spool,
            inline_bytes=means.inline_bytes,
            container=container,
        )

    def open(self, *, control: Control | None = None, is_mpi: bool = False) -> None:
        """Settle what is the same for all calls. Before the first of them; again when something has changed."""
        mark = ""
        if self._spool is not None:
            path = self._spool / f"mark-{self.pool}"
            path.touch(mode=0o600)
            mark = str(path)
        self.terms = encode(
            Terms(
                pool=self.pool,
                environment=self._environment,
                limits=self._limits.as_argument(),
                most_output_bytes=self._most_output_bytes,
                spool=str(self._spool or ""),
                mark=mark,
                inline_bytes=self._inline_bytes,
                control=control,
                python=self._python,
                is_mpi=is_mpi,
                container=self._container,
            )
        )

    def parcel(self, errands: Sequence[tuple[Call, int]]) -> bytes:
        """Calls as bytes, each with how often it was tried before."""
        places: dict[UUID, int] = {}
        codes: list[FunctionCode] = []
        orders: list[Order] = []
        for call, attempts in errands:
            place = places.get(call.function)
            if place is None:
                place = places[call.function] = len(codes)
                codes.append(call.code)
            order = Order(
                call.key.bytes, call.function.bytes, place, call.encoding, call.arguments, call.options, attempts
            )
            orders.append(order)
        return encode(Parcel(self.terms, codes, orders))

    def endings(self, reply: bytes) -> list[Ending]:
        """Read endings. A value that is too large for a message goes into the spool, unless the place did that.

        Takes as long as that takes: not for an event loop.
        """
        endings = _read_endings(reply)
        for ending in endings:
            self._spill(ending)
        return endings

    def _spill(self, ending: Ending) -> None:
        spool = self._spool
        if spool is not None and len(ending.value) > self._inline_bytes and ending.encoding != OBJECT:
            ending.encoding, ending.value = spill_encoded(ending.encoding, ending.value, lambda: open_result(spool))

    def close(self) -> None:
        """Remove what was left in the spool."""
        if self._spool is not None:
            with contextlib.suppress(OSError):
                (self._spool / f"mark-{self.pool}").unlink()


def once_name(key: UUID, attempts: int) -> str:
    """What tells that a call that must not run twice has been started."""
    return f"headrace-started-{key.hex}-{attempts}"
