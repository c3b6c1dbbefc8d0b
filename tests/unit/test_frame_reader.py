"""A worker's frames, read from whatever pieces the kernel gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.endpoint.engines.processes.frame_reader import BUFFER_BYTES, FrameReader
from headrace.endpoint.worker.frames import HEAD_BYTES, Report, frame, read_report

EDGE = BUFFER_BYTES - HEAD_BYTES
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([EDGE - 1, EDGE, EDGE + 1, BUFFER_BYTES, 3 * BUFFER_BYTES]))


def feed(reader: FrameReader, data: bytes, most: int) -> None:
    rest = memoryview(data)
    while rest:
        space = reader.space()
        count = min(len(space), most, len(rest))
        assert count > 0
        space[:count] = rest[:count]
        rest = rest[count:]
        reader.filled(count)


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(HEAD_BYTES, "little") + content


@given(st.lists(SIZES, max_size=8), st.sampled_from([7, 1000, BUFFER_BYTES, 1 << 20]))
def test_frames_are_the_same_whatever_the_pieces(sizes: list[int], most: int) -> None:
    contents = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    read: list[bytes] = []

    feed(FrameReader(lambda content: read.append(bytes(content))), b"".join(map(framed, contents)), most)

    assert read == contents


def test_a_frame_that_cannot_be_taken_is_not_taken_again() -> None:
    read: list[bytes] = []

    def take(content: memoryview) -> None:
        read.append(bytes(content))
        if len(read) == 1:
            raise ValueError("not this one")

    reader = FrameReader(take)
    with pytest.raises(ValueError, match="not this one"):
        feed(reader, framed(b"first") + framed(b"second"), 1000)
    feed(reader, framed(b"third"), 1000)

    assert read == [b"first", b"second", b"third"]


def test_a_report_is_read_as_it_was_written() -> None:
    reports: list[Report] = []
    report = Report([(1, 0, 1, b"x" * 2 * BUFFER_BYTES, 1.5, 0.25)], [2, 3])

    feed(FrameReader(lambda content: reports.append(read_report(content))), bytes(frame(report)), 100_000)

    assert reports == [report]
