"""A field with many alternatives passes what one of them passes, however they are put together."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.filters import EventPattern

LETTERS = st.text('aAbB"kK\u212as\u017fé*', max_size=5)
"""Among them signs whose small letters are those of others, and the quote, which belongs to what is compared."""
NUMBERS = st.one_of(st.integers(-4, 4).map(float), st.sampled_from([0.5, -0.0, 1e22, 2.0**60]))
ADDRESSES = st.builds("10.{}.{}.{}".format, *[st.sampled_from([0, 1, 127, 128, 255])] * 3)
SIXES = st.builds("2001:db8:{:x}::{:x}".format, *[st.sampled_from([0, 1, 0x8000, 0xFFFF])] * 2)


def block(address: str, bits: int) -> str:
    return f"{address}/{min(bits, 31) if '.' in address else bits}"


BLOCKS = st.builds(block, st.one_of(ADDRESSES, SIXES), st.integers(0, 127))
COMPARISONS = st.one_of(
    st.tuples(st.sampled_from(["=", "<", "<=", ">", ">="]), NUMBERS).map(list),
    st.tuples(st.sampled_from([">", ">="]), st.integers(-4, 0), st.sampled_from(["<", "<="]), st.integers(1, 4)).map(
        list
    ),
)
WILDCARDS = st.text('ab*"', max_size=6).map(lambda text: re.sub(r"\*+", "*", text))
KINDS: dict[str, Any] = {
    "prefix": LETTERS.map(lambda text: {"prefix": text}),
    "suffix": LETTERS.map(lambda text: {"suffix": text}),
    "any case": LETTERS.map(lambda text: {"equals-ignore-case": text}),
    "prefix in any case": LETTERS.map(lambda text: {"prefix": {"equals-ignore-case": text}}),
    "suffix in any case": LETTERS.map(lambda text: {"suffix": {"equals-ignore-case": text}}),
    "wildcard": WILDCARDS.map(lambda text: {"wildcard": text}),
    "numeric": COMPARISONS.map(lambda each: {"numeric": each}),
    "block": BLOCKS.map(lambda each: {"cidr": each}),
    "address": st.one_of(ADDRESSES, SIXES),
}
VALUES = st.one_of(LETTERS, NUMBERS, ADDRESSES, SIXES, st.just(None), st.just(True))


@pytest.mark.parametrize("kind", list(KINDS))
@given(st.data())
def test_many_alternatives_pass_what_one_of_them_passes(kind: str, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(KINDS[kind], min_size=6, max_size=12))
    for value in data.draw(st.lists(VALUES, min_size=8, max_size=8)):
        event = {"x": value}
        alone = [EventPattern({"x": [each]}).matches(event) for each in wanted]
        assert EventPattern({"x": wanted}).matches(event) == any(alone), (wanted, value)
