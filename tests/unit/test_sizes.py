from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.durations import parse_duration, shown_duration
from headrace.bus.sizes import parse_size, shown_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1_000_000, 1_000_000),
        ("500B", 500),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        ("1.5 GiB", 1_610_612_736),
        ("512MiB", 1 << 29),
        ("64KB", 64_000),
        ("1TiB", 1 << 40),
    ],
)
def test_a_size_is_a_number_with_its_unit(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "GB", "-1GB", "2G", "2 GB of memory", "1e9B", "0x10MB", "1,5GB"])
def test_what_is_no_size_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="KB, MB, GB, TB, KiB, MiB, GiB or TiB"):
        parse_size(text)


@given(st.integers(0, 1 << 45))
def test_a_size_that_is_shown_is_not_changed_by_it(size: int) -> None:
    shown = shown_size(size)

    assert parse_size(shown.replace("bytes", "B")) == size


def test_sizes_are_shown_in_the_unit_they_were_given_in() -> None:
    assert [shown_size(parse_size(size)) for size in ("2GB", "1.5 GiB", "512 MiB", "100MB", 7)] == [
        "2 GB",
        "1.5 GiB",
        "512 MiB",
        "100 MB",
        "7 bytes",
    ]


@given(st.integers(1, 10**9))
def test_a_duration_that_is_shown_is_not_changed_by_it(seconds: int) -> None:
    assert parse_duration(shown_duration(seconds)) == seconds


def test_durations_are_shown_in_the_largest_whole_unit() -> None:
    assert [shown_duration(each) for each in (0.5, 90, 5400, 86_400, 604_800)] == ["0.5s", "90s", "90m", "1d", "7d"]
