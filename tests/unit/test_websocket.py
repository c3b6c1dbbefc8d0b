"""WebSocket frames: whatever the pieces, what comes out is what went in."""

from __future__ import annotations

import struct
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import ProtocolBroken
from headrace.bus.nats.websocket import (
    BINARY,
    BUFFER_BYTES,
    CLOSE,
    CONTINUED,
    DIRECT_BYTES,
    PING,
    PONG,
    Frames,
    FrameWriter,
    accepts,
    end_text,
    feed,
    frame,
    masked,
    upgrade_request,
)

SIZES = st.one_of(
    st.integers(0, 300),
    st.sampled_from([125, 126, 127, DIRECT_BYTES - 1, DIRECT_BYTES, 65_535, 65_536, BUFFER_BYTES * 2 + 1]),
)


def content_of(size: int) -> bytes:
    return bytes(place % 251 for place in range(256)) * (size // 256) + b"x" * (size % 256)


CONTENTS = SIZES.map(content_of)


class Kept:
    """An intake with memory of uneven sizes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._sizes = cycle([7000, 64, 1, 70_000])
        self._memory = memoryview(bytearray(next(self._sizes)))

    def space(self) -> memoryview:
        return self._memory

    def filled(self, count: int) -> None:
        self.data += self._memory[:count]
        self._memory = memoryview(bytearray(next(self._sizes)))


class Heard:
    def __init__(self) -> None:
        self.intake = Kept()
        self.controls: list[tuple[int, bytes]] = []
        self.frames = Frames(self.intake, lambda kind, content: self.controls.append((kind, content)))

    def read(self, stream: bytes, most: int) -> None:
        rest = memoryview(stream)
        while rest:
            count = min(most, len(rest), len(self.frames.space()))
            assert count > 0
            self.frames.space()[:count] = rest[:count]
            self.frames.filled(count)
            rest = rest[count:]


class Pipe:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True


def from_server(kind: int, content: bytes, *, last: bool = True) -> bytes:
    first, size = (0x80 if last else 0) | kind, len(content)
    if size < 126:
        return struct.pack("!BB", first, size) + content
    if size < 65_536:
        return struct.pack("!BBH", first, 126, size) + content
    return struct.pack("!BBQ", first, 127, size) + content


def unmasked(sent: bytes) -> list[tuple[int, bytes]]:
    """The frames that a client sent."""
    found = []
    while sent:
        assert sent[0] & 0xF0 == 0x80
        assert sent[1] & 0x80
        length, at = sent[1] & 0x7F, 2
        if length >= 126:
            at = 4 if length == 126 else 10
            length = int.from_bytes(sent[2:at], "big")
        key, content = sent[at : at + 4], sent[at + 4 : at + 4 + length]
        found.append((sent[0] & 0x0F, bytes(byte ^ key[place % 4] for place, byte in enumerate(content))))
        sent = sent[at + 4 + length :]
    return found


@given(
    st.lists(st.tuples(SIZES, st.booleans(), st.booleans()), max_size=6),
    st.sampled_from([1, 3, 150, 4096, BUFFER_BYTES, 1 << 20]),
)
def test_what_a_server_says_is_the_same_whatever_its_frames_and_their_pieces(
    messages: list[tuple[int, bool, bool]], most: int
) -> None:
    if most < 100:
        messages = [(min(size, 300), in_two, with_ping) for size, in_two, with_ping in messages]
    heard, stream, said, pings = Heard(), b"", b"", 0
    for number, (size, in_two, with_ping) in enumerate(messages):
        content = bytes((number + place) % 251 for place in range(size))
        first = from_server(BINARY, content[: size // 3], last=False) if in_two else b""
        ping = from_server(PING, b"there?") if with_ping else b""  # between two parts of a message, too
        stream += first + ping
        stream += from_server(CONTINUED, content[size // 3 :]) if in_two else from_server(BINARY, content)
        said, pings = said + content, pings + with_ping

    heard.read(stream, most)

    assert heard.intake.data == said
    assert heard.controls == [(PING, b"there?")] * pings


@given(st.lists(CONTENTS, max_size=4))
def test_what_a_client_writes_is_framed_and_masked(pieces: list[bytes]) -> None:
    pipe = Pipe()
    writer = FrameWriter(pipe)

    for piece in pieces:
        writer.write(piece)
    writer.writelines(pieces)

    assert unmasked(pipe.sent) == [(BINARY, piece) for piece in pieces] + [(BINARY, b"".join(pieces))]


@given(
    st.one_of(st.binary(max_size=300), CONTENTS),
    st.binary(min_size=4, max_size=4),
)
def test_a_mask_is_each_byte_under_one_of_four(content: bytes, key: bytes) -> None:
    assert masked(content, key) == bytes(byte ^ key[place % 4] for place, byte in enumerate(content))
    assert masked(masked(content, key), key) == content


def test_two_frames_never_have_the_same_mask_by_rule() -> None:
    assert len({frame(BINARY, b"same") for _ in range(50)}) > 40


def test_a_ping_is_answered_with_its_content_and_an_end_with_its_code_once() -> None:
    pipe = Pipe()
    writer = FrameWriter(pipe)

    writer.answer(PING, b"there?")
    writer.answer(PONG, b"")
    writer.answer(CLOSE, b"\x03\xe8bye")
    writer.close()

    assert unmasked(pipe.sent) == [(PONG, b"there?"), (CLOSE, b"\x03\xe8")]
    assert pipe.closed


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(b"\xc2\x00", id="an extension that nobody asked for"),
        pytest.param(b"\x82\x80\x00\x00\x00\x00", id="a masked frame"),
        pytest.param(b"\x81\x01a", id="text"),
        pytest.param(b"\x80\x00", id="a continuation of nothing"),
        pytest.param(b"\x02\x01a\x82\x01b", id="a message in the middle of another"),
        pytest.param(b"\x89\x7e\x00\x80" + bytes(128), id="a long ping"),
        pytest.param(b"\x09\x00", id="a ping in parts"),
    ],
)
def test_what_no_server_may_send_ends_the_connection(wrong: bytes) -> None:
    with pytest.raises(ProtocolBroken):
        feed(Heard().frames, memoryview(wrong))


def test_the_handshake_is_that_of_the_specification() -> None:
    # RFC 6455, section 1.3.
    assert accepts("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    assert not accepts("dGhlIHNhbXBsZSBub25jZQ==", "")
    request = upgrade_request("wss://a.example:8443/nats?x=1", "KEY").decode()
    assert request.startswith("GET /nats?x=1 HTTP/1.1\r\nHost: a.example:8443\r\n")
    assert request.endswith("\r\n\r\n")
    assert upgrade_request("ws://a.example", "KEY").startswith(b"GET / HTTP/1.1\r\n")


def test_an_end_is_told_in_words() -> None:
    assert end_text(b"\x03\xf0wrong JWT") == "the server closed the WebSocket (1008: wrong JWT)"
    assert end_text(b"") == "the server closed the WebSocket (1005)"
