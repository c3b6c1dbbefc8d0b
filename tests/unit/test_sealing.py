"""Records that only the two sides of a connection can read, and only in their order."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import SignatureInvalid
from headrace.bus.sealing import SEAL_BYTES, Opener, Sealer

SECRET = os.urandom(32)


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_what_one_side_seals_the_other_one_opens(contents: list[bytes]) -> None:
    sealer, opener = Sealer(SECRET, "there", b"1"), Opener(SECRET, "there", b"1")

    sealed = [sealer.seal(content) for content in contents]

    assert [opener.open(record) for record in sealed] == contents
    assert [len(record) - len(content) for record, content in zip(sealed, contents, strict=True)] == [
        SEAL_BYTES for _ in contents
    ]


@pytest.mark.parametrize(
    "opener",
    [
        Opener(os.urandom(32), "there", b"1"),
        Opener(SECRET, "back", b"1"),
        Opener(SECRET, "there", b"2"),
    ],
)
def test_nobody_else_opens_it(opener: Opener) -> None:
    with pytest.raises(SignatureInvalid):
        opener.open(Sealer(SECRET, "there", b"1").seal(b"content"))


def test_a_record_that_is_changed_repeated_or_left_out_does_not_open() -> None:
    sealer = Sealer(SECRET, "there")
    first, second = sealer.seal(b"a"), sealer.seal(b"b")

    with pytest.raises(SignatureInvalid):
        Opener(SECRET, "there").open(bytes([first[0] ^ 1]) + first[1:])
    with pytest.raises(SignatureInvalid):
        Opener(SECRET, "there").open(second)
    with pytest.raises(SignatureInvalid):
        Opener(SECRET, "there").open(b"short")
    opener = Opener(SECRET, "there")
    opener.open(first)
    with pytest.raises(SignatureInvalid):
        opener.open(first)
