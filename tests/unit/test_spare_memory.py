"""What is free is kept for the next large message, and goes back to the system in the end."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.bus.spare_memory import give_back

PIECES, PIECE_BYTES = 2_000, 60_000

glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a word for it")

MESSAGES = """
import resource
from headrace.bus.spare_memory import keep_for_messages

keep_for_messages()
for count in range(20):
    if count == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    message = bytes([1]) * 1_000_000
    value = message[:-1]
    del message, value
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@glibc_only
def test_memory_that_is_free_below_some_that_is_not_is_given_back() -> None:
    pieces = [bytes([1]) * PIECE_BYTES for _ in range(PIECES)]
    kept = pieces[::100]
    pieces.clear()
    before = resident_bytes()

    give_back()

    assert resident_bytes() < before - PIECES * PIECE_BYTES // 2
    assert len(kept) == PIECES // 100


@glibc_only
def test_messages_that_come_one_after_the_other_take_the_same_memory() -> None:
    # In a process of its own: what was freed here before has taught the C library already.
    new_pages = subprocess.run([sys.executable, "-c", MESSAGES], capture_output=True, text=True, check=True).stdout

    assert int(new_pages) < 100, "each of these messages would need 500 pages"
