"""NATS's protocol, read from whatever pieces the kernel gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import ProtocolBroken
from headrace.bus.nats.message import headers_block, parse_headers
from headrace.bus.nats.reader import BUFFER_BYTES, LARGE_BYTES, Reader

SIZES = st.one_of(
    st.integers(0, 300), st.sampled_from([LARGE_BYTES - 1, LARGE_BYTES, BUFFER_BYTES - 40, BUFFER_BYTES, 100_000])
)
HEADERS = st.dictionaries(st.from_regex(r"[A-Za-z-]{1,20}", fullmatch=True), st.sampled_from(["", "1", "a: b c"]))
MESSAGES = st.tuples(st.integers(0, 9999), st.sampled_from(["", "_INBOX.a.1"]), HEADERS, SIZES)


class Heard:
    def __init__(self) -> None:
        self.messages: list[tuple[int, str, str, bytes, bytes]] = []
        self.words: list[bytes] = []
        self.reader = Reader(lambda *message: self.messages.append(message), self.words.append)

    def read(self, data: bytes, most: int) -> None:
        rest = memoryview(data)
        while rest:
            space = self.reader.space()
            count = min(len(space), most, len(rest))
            assert count > 0
            space[:count] = rest[:count]
            self.reader.filled(count)
            rest = rest[count:]


def wire(number: int, reply: str, headers: dict[str, str], data: bytes) -> bytes:
    middle = f" {reply}" if reply else ""
    if not headers:
        return f"MSG a.b {number}{middle} {len(data)}\r\n".encode() + data + b"\r\n"
    block = headers_block(headers)
    sizes = f"{len(block)} {len(block) + len(data)}"
    return f"HMSG a.b {number}{middle} {sizes}\r\n".encode() + block + data + b"\r\n"


@given(st.lists(MESSAGES, max_size=6), st.sampled_from([150, 1000, 4096, BUFFER_BYTES, 1 << 20]))
def test_messages_are_the_same_whatever_the_pieces(
    messages: list[tuple[int, str, dict[str, str], int]], most: int
) -> None:
    heard = Heard()
    payloads = [b"MSG x 1 5\r\n"[: size % 12] + bytes([size % 251]) * size for *_, size in messages]
    stream = b"".join(
        wire(number, reply, headers, payload) + b"PING\r\n"
        for (number, reply, headers, _), payload in zip(messages, payloads, strict=True)
    )

    heard.read(stream, most)

    assert heard.words == [b"PING"] * len(messages)
    assert [(number, subject, reply) for number, subject, reply, _, _ in heard.messages] == [
        (number, "a.b", reply) for number, reply, _, _ in messages
    ]
    assert [dict(parse_headers(block)) for *_, block, _ in heard.messages] == [each for _, _, each, _ in messages]
    assert [data for *_, data in heard.messages] == payloads


def test_the_server_s_own_answers_have_a_status() -> None:
    assert parse_headers(b"NATS/1.0 404 No Messages\r\n\r\n") == {"Status": "404", "Description": "No Messages"}
    assert parse_headers(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    assert parse_headers(b"") == {}


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("a:b", "x"), ("a", "x\r\ny: z"), ("a\nb", "x")])
def test_a_header_that_would_become_two_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not a header"):
        headers_block({name: value})


@pytest.mark.parametrize("line", [b"MSG a 1 x\r\n", b"MSG 3\r\nabc\r\n", b"HMSG a x 1 2\r\nab\r\n"])
def test_what_is_no_message_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolBroken):
        Heard().read(line, 1000)


def test_a_line_without_an_end_is_an_error() -> None:
    with pytest.raises(ProtocolBroken, match="a line of more"):
        Heard().read(b"I" * BUFFER_BYTES, 1000)
