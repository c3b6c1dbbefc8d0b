"""The clock that does not stand still while the machine sleeps."""

from __future__ import annotations

import sys
import time

import pytest

from headrace.bus.clock import elapsed_s


def test_it_never_goes_back() -> None:
    times = [elapsed_s() for _ in range(1000)]

    assert times == sorted(times)


@pytest.mark.skipif(sys.platform != "linux", reason="the clock of Linux")
def test_on_linux_it_counts_the_time_in_suspend() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)

    assert before <= elapsed_s() <= time.clock_gettime(time.CLOCK_BOOTTIME)
