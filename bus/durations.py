"""Durations as people write them."""

from __future__ import annotations

import re
from typing import Final

_FORM = re.compile(r"(\d{1,10}(?:\.\d{1,9})?)(s|m|h|d)")
_UNIT_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_duration(text: str) -> float:
    """The seconds in `90s`, `15m`, `12h` or `30d`. Raises `ValueError` for everything else."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ValueError(f"{text[:40]!r} is not a duration such as 90s, 15m, 12h or 30d")
    return float(form[1]) * _UNIT_S[form[2]]


def shown_duration(seconds: float) -> str:
    """A duration for people, in the largest unit that gives a whole number: `7d`, `90m`, `0.5s`."""
    unit = next((name for name in "dhm" if seconds >= _UNIT_S[name] and seconds % _UNIT_S[name] == 0), "s")
    return f"{seconds / _UNIT_S[unit]:.10g}{unit}"
