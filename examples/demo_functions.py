"""The functions of the demo, and how their results are checked without them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Statistics = dict[str, float]


class WrongResult(Exception):
    """Raised when a step of the demo gave something else than it should."""


def array_stats(array):  # type: ignore[no-untyped-def]  # as it is printed on the page that it comes from
    """Mean and standard deviation of some numbers."""
    import numpy as np

    array = np.array(array)
    mean = np.mean(array)
    std = np.std(array)
    return {"mean": mean, "std": std}


def string_stats(string):  # type: ignore[no-untyped-def]  # likewise
    """Length and both cases of a text."""
    return {
        "length": len(string),
        "uppercase": string.upper(),
        "lowercase": string.lower(),
    }


def rain_report(month: str, rain: list[float]) -> dict[str, Any]:
    """What an event of one month makes known: days with rain, their sum, and the worst of them (mm)."""
    return {"month": month, "days": sum(amount > 0 for amount in rain), "total": sum(rain), "most": max(rain)}


def statistics_by_hand(numbers: Sequence[float]) -> Statistics:
    """What `array_stats` should give."""
    mean = math.fsum(numbers) / len(numbers)
    return {"mean": mean, "std": math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))}


def check_statistics(found: Mapping[str, Statistics], numbers: Mapping[str, Sequence[float]]) -> None:
    """Compare results of `array_stats` with a calculation of our own. Raises `WrongResult`."""
    for name, values in numbers.items():
        wanted = statistics_by_hand(values)
        if any(not math.isclose(found[name][key], wanted[key], rel_tol=1e-9) for key in wanted):
            raise WrongResult(f"array_stats of {name} gave {found[name]}, not {wanted}")
