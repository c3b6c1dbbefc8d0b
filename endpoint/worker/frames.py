"""What an engine and its worker process say to each other, over a socket pair of their own.

A frame is its length (8 bytes, little-endian) and a msgpack array. The engine sends `Work`; the worker sends `Report`,
the first one, empty, once it is ready. Calls carry a number, from 1, that grows by one with each call sent to that
worker.

Besides, both share a page of memory with a few numbers, so that the engine knows what a worker was doing even after a
SIGKILL: the number of the last call that was started, that of the last one that was finished, and where in the worker's
stdout and stderr the output of the running call, or the next one, begins.
"""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.bus.functions.code import FunctionCode

HEAD_BYTES: Final = 8

STARTED: Final = 0
FINISHED: Final = 1
OUT_BEGIN: Final = 2
ERR_BEGIN: Final = 3
STARTED_AT: Final = 4
"""When the call STARTED did so, unix seconds, read by `moments`: whoever stops it finds its start here."""
COUNTERS_BYTES: Final = 4096

SUCCEEDED: Final = 0
RAISED: Final = 1
REFUSED: Final = 2
"""The call failed without the function having raised: its code, arguments or result cannot be used."""

WorkItem = tuple[int, int, int, bytes, bool]
"""number, function (as numbered in `Work.functions`), encoding, arguments, whether the result must be JSON."""

ReportItem = tuple[int, int, int, bytes, float, float]
"""number, kind of end (above), encoding, value, start (unix seconds), duration (seconds)."""


PrintedItem = tuple[int, int, int, int, int]
"""number of a call that printed, where its output begins and ends in the worker's stdout, and in its stderr."""


class Work(msgspec.Struct, array_like=True):
    """Calls to run in this order, and the functions among theirs that this worker has not got yet."""

    calls: list[WorkItem]
    functions: list[tuple[int, FunctionCode]]
    forget: bool = False
    """Forget all functions that came before: there have been many."""
    leave: bool = False
    """Exit in peace: nothing comes after this."""
    sandboxes: dict[int, str] = {}
    """The names of the calls' sandboxes, by the calls' numbers; empty where there are none."""
    specifications: dict[int, bytes] = {}
    """The resource specifications (JSON) of those calls that have one, by the calls' numbers."""


class Report(msgspec.Struct, array_like=True):
    """Calls that ended; `returned` are numbers of calls given back unstarted because number `stalled` takes long."""

    ended: list[ReportItem]
    returned: list[int]
    stalled: int = 0
    printed: list[PrintedItem] = []
    """What those of the calls that ended have printed."""


_encoder = msgspec.msgpack.Encoder()
read_work = msgspec.msgpack.Decoder(Work).decode
read_report = msgspec.msgpack.Decoder(Report).decode


def moments(counters: memoryview) -> memoryview[float]:
    """The same page as numbers with a fraction."""
    return counters.cast("B").cast("d")


def frame(message: Work | Report) -> bytearray:
    """The message with its length before it."""
    buffer = bytearray(HEAD_BYTES)
    _encoder.encode_into(message, buffer, HEAD_BYTES)
    buffer[:HEAD_BYTES] = (len(buffer) - HEAD_BYTES).to_bytes(HEAD_BYTES, "little")
    return buffer
