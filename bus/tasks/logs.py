"""What tasks print: how it travels, and how it is read.

    log message  b"HL" version(1)  MAC(32)  body         (`headrace.bus.signed`)

The body is a msgpack array of chunks, of one task (stored under its own subject) or of several of one bundle (under the
subject that they share). A chunk says at which byte of its stream it begins: what is missing, because it was cut or
could not be stored, shows as a gap, so nobody has to tell of it. Offsets count anew in each *run*, one start of the
task. The MAC is under the result key: a reader believes of the log what it would believe of the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from headrace.bus.keys import Keys
from headrace.bus.signed import Signed
from headrace.bus.tasks.bundles import LogEnd

StreamName = Literal["stdout", "stderr"]
STREAMS: Final[tuple[StreamName, StreamName]] = ("stdout", "stderr")


class LogChunk(msgspec.Struct, array_like=True, frozen=True):
    """Some bytes that a task wrote. `index` is the task's place in its bundle, `stream` a place in `STREAMS`.

    `run` is a number for one start of the task, greater for a later one of the same pool; `offset` counts the bytes of
    that stream in that run; `time` is in unix seconds by the endpoint's clock.
    """

    index: int
    stream: int
    run: int
    attempt: int
    offset: int
    time: float
    data: bytes
    worker: str = ""


class LogMessage(msgspec.Struct, array_like=True, frozen=True):
    """Chunks of one task or of several, in the order in which they were read."""

    chunks: list[LogChunk]


_signed = Signed(LogMessage, "a log message", magic=b"HL\x01", purpose=b"HL\x01")


def encode_log(chunks: list[LogChunk], *, subject: str, key: bytes) -> bytes:
    """The message that stores chunks under `subject`."""
    return _signed.encode(LogMessage(chunks), subject=subject, key=key)


def decode_log(message: bytes, *, subject: str, key: Keys) -> list[LogChunk]:
    """Read a log message. Raises `SignatureInvalid` and `DecodeError`."""
    return _signed.decode(message, subject=subject, key=key).chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPiece:
    """The next bytes of a task's stream, for a reader. `cut` bytes before them are not there.

    `sequence` and `number` are where they are stored: message and place in it; both grow.
    """

    sequence: int
    number: int
    stream: StreamName
    run: int
    attempt: int
    worker: str
    time: float
    data: bytes
    cut: int = 0


class LogReader:
    """Puts the log of one task together from messages that are taken in the order of their sequences.

    What comes twice (a publish whose answer was lost was repeated) is given once.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._ends: dict[tuple[int, int], int] = {}

    def take(self, sequence: int, chunks: Iterable[LogChunk]) -> list[LogPiece]:
        """The pieces that are new in a message."""
        found = []
        for number, chunk in enumerate(chunks):
            piece = self._piece(sequence, number, chunk) if chunk.index == self._index else None
            if piece is not None:
                found.append(piece)
        return found

    def has_all(self, end: LogEnd) -> bool:
        """Whether everything is here that the run printed."""
        return self.missing(end) == (0, 0)

    def missing(self, end: LogEnd) -> tuple[int, int]:
        """How many bytes of its end are not here: of stdout, and of stderr."""
        out, err = self._ends.get((end.run, 0), 0), self._ends.get((end.run, 1), 0)
        return max(0, end.stdout_bytes - out), max(0, end.stderr_bytes - err)

    def _piece(self, sequence: int, number: int, chunk: LogChunk) -> LogPiece | None:
        if not 0 <= chunk.stream < len(STREAMS):
            return None
        place = (chunk.run, chunk.stream)
        known = self._ends.get(place, 0)
        end = chunk.offset + len(chunk.data)
        if end <= known:
            return None
        self._ends[place] = end
        return LogPiece(
            sequence=sequence,
            number=number,
            stream=STREAMS[chunk.stream],
            run=chunk.run,
            attempt=chunk.attempt,
            worker=chunk.worker,
            time=chunk.time,
            data=chunk.data[max(0, known - chunk.offset) :],
            cut=max(0, chunk.offset - known),
        )
