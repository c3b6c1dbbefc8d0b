"""What tasks print, as it travels: signed, cut, doubled and put together again."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import DecodeError, SignatureInvalid
from headrace.bus.names import Address
from headrace.bus.tasks.bundles import LogEnd
from headrace.bus.tasks.logs import LogChunk, LogReader, decode_log, encode_log
from headrace.endpoint.agent.task_logs import _messages
from headrace.endpoint.engines.processes.output import OutputFile, RunOutput

KEY = b"k" * 32
ADDRESS = Address(
    endpoint=UUID(int=1), pool="default", principal="urn:headrace:user:ada", group=UUID(int=2), bundle=UUID(int=3)
)


def a_chunk(data: bytes = b"text", *, index: int = 0, stream: int = 0, offset: int = 0, run: int = 1) -> LogChunk:
    return LogChunk(index, stream, run, 1, offset, 1.5, data, "host/1")


@given(st.lists(st.builds(a_chunk, st.binary(), index=st.integers(0, 9), stream=st.integers(0, 1))))
def test_a_message_comes_back_as_it_was(chunks: list[LogChunk]) -> None:
    subject = ADDRESS.log_subject(3)

    assert decode_log(encode_log(chunks, subject=subject, key=KEY), subject=subject, key=KEY) == chunks


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_message_that_was_changed_is_not_believed(place: int, change: int) -> None:
    subject = ADDRESS.log_subject(3)
    message = bytearray(encode_log([a_chunk(b"x" * 200)], subject=subject, key=KEY))
    message[place] ^= change

    with pytest.raises((SignatureInvalid, DecodeError)):
        decode_log(bytes(message), subject=subject, key=KEY)


def test_a_message_is_believed_only_where_it_belongs() -> None:
    message = encode_log([a_chunk()], subject=ADDRESS.log_subject(3), key=KEY)

    for index in (4, None):
        with pytest.raises(SignatureInvalid):
            decode_log(message, subject=ADDRESS.log_subject(index), key=KEY)


@given(st.data(), st.binary(min_size=1, max_size=60))
def test_chunks_that_come_twice_or_are_lost_give_the_bytes_in_order_and_say_what_is_missing(
    data: st.DataObject, whole: bytes
) -> None:
    cuts = sorted({0, len(whole), *data.draw(st.lists(st.integers(0, len(whole))))})
    chunks = [a_chunk(whole[start:end], offset=start) for start, end in itertools.pairwise(cuts)]
    kept = data.draw(st.lists(st.booleans(), min_size=len(chunks), max_size=len(chunks)))
    sent = [chunk for chunk, keep in zip(chunks, kept, strict=True) if keep]
    # A publish whose answer was lost is repeated later.
    sent += data.draw(st.lists(st.sampled_from(sent), max_size=3)) if sent else []
    reader = LogReader(0)

    pieces = [piece for number, chunk in enumerate(sent) for piece in reader.take(number + 1, [chunk])]

    end = LogEnd(1, len(whole), 0)
    assert b"".join(piece.data for piece in pieces) == b"".join(
        chunk.data for chunk, keep in zip(chunks, kept, strict=True) if keep
    )
    cut = sum(piece.cut for piece in pieces) + reader.missing(end)[0]
    assert cut + sum(len(piece.data) for piece in pieces) == len(whole)
    assert reader.has_all(end) == (reader.missing(end) == (0, 0))


def test_runs_and_streams_are_counted_apart_and_other_tasks_passed_over() -> None:
    reader = LogReader(0)
    chunks = [
        a_chunk(b"one"),
        a_chunk(b"err", stream=1),
        a_chunk(b"others", index=1),
        a_chunk(b"again", run=2),
        a_chunk(b"nowhere", stream=2),
    ]

    pieces = reader.take(1, chunks)

    assert [(piece.run, piece.stream, piece.data) for piece in pieces] == [
        (1, "stdout", b"one"),
        (1, "stderr", b"err"),
        (2, "stdout", b"again"),
    ]
    assert [piece.number for piece in pieces] == [0, 1, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0, 1, 5_000, 9_000, 140_000, 300_000))), max_size=5))
def test_messages_are_small_and_hold_every_byte_once(sizes: list[tuple[int, int]]) -> None:
    offsets = dict.fromkeys(range(4), 0)
    chunks = []
    for index, size in sizes:
        chunks.append(a_chunk(b"x" * size, index=index, offset=offsets[index]))
        offsets[index] += size

    found = dict.fromkeys(range(4), 0)
    for place, message in _messages(chunks):
        assert sum(len(chunk.data) for chunk in message) <= 140_000
        assert place is None or {chunk.index for chunk in message} == {place}
        for chunk in message:
            assert chunk.offset == found[chunk.index]
            found[chunk.index] += len(chunk.data)
    assert found == offsets


@contextlib.contextmanager
def a_file() -> Iterator[tuple[OutputFile, int]]:
    file = OutputFile("test")
    writer = file.writer()
    try:
        yield file, writer
    finally:
        os.close(writer)
        file.close()


@given(st.integers(1, 3000), st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1500)), max_size=12))
def test_a_run_keeps_its_beginning_and_its_end_within_the_limit(limit: int, writes: list[tuple[int, int]]) -> None:
    output = RunOutput(1, limit)
    given_on: tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]] = ([], [])
    whole = (bytearray(), bytearray())
    with a_file() as (out, out_writer), a_file() as (err, err_writer):
        for number, (stream, size) in enumerate(writes):
            file, writer = ((out, out_writer), (err, err_writer))[stream]
            data = bytes([number]) * size
            os.write(writer, data)
            whole[stream].extend(data)
            given_on[stream].append(output.take(stream, file, file.size))
            assert file.position == len(whole[stream])
    for stream in (0, 1):
        pieces = [*given_on[stream], output.rest(stream)]
        assert output.written[stream] == len(whole[stream])
        for offset, data in pieces:
            assert whole[stream][offset : offset + len(data)] == data
        kept = sum(len(data) for _, data in pieces)
        if sum(map(len, whole)) <= limit * 3 // 4 - 2:
            assert kept == len(whole[stream])
    assert sum(len(data) for stream in (0, 1) for _, data in [*given_on[stream], output.rest(stream)]) <= limit


def test_where_a_call_began_is_told_until_it_counts_as_finished() -> None:
    """Who looks in between would take the end of the call for its beginning, and its output for nobody's."""
    script = """
import os
from headrace.endpoint.worker.frames import ERR_BEGIN, OUT_BEGIN
from headrace.endpoint.worker.printed import Printed
counters = memoryview(bytearray(64)).cast("Q")
printed = Printed(counters)
print("some text")
assert printed.end(7) == (7, 0, 10, 0, 0)
assert (counters[OUT_BEGIN], counters[ERR_BEGIN]) == (0, 0)
printed.tell()
assert (counters[OUT_BEGIN], counters[ERR_BEGIN]) == (10, 0)
assert printed.end(8) is None
"""
    with a_file() as (_, out), a_file() as (_, err):
        subprocess.run([sys.executable, "-c", script], stdout=out, stderr=err, check=True, timeout=30)


def test_a_worker_cannot_read_what_it_has_written_and_nobody_writes_after_its_end() -> None:
    file = OutputFile("test")
    writer = file.writer()
    os.write(writer, b"text")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(writer, 10)
    file.close()
    with pytest.raises(PermissionError):
        os.write(writer, b"more")
    os.close(writer)


def test_memory_of_what_was_read_is_given_back() -> None:
    with a_file() as (file, writer):
        for _ in range(20):
            os.write(writer, b"x" * 1_000_000)
            file.advance(file.size)
            assert os.fstat(writer).st_blocks * 512 < 200_000
        assert file.size == 20_000_000
