"""What is free goes back to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from headrace.endpoint.engines.processes.spare_memory import give_back

PIECES, PIECE_BYTES = 2_000, 60_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a word for it")
def test_memory_that_is_free_below_some_that_is_not_is_given_back() -> None:
    pieces = [bytes([1]) * PIECE_BYTES for _ in range(PIECES)]
    kept = pieces[::100]
    pieces.clear()
    before = resident_bytes()

    give_back()

    assert resident_bytes() < before - PIECES * PIECE_BYTES // 2
    assert len(kept) == PIECES // 100
