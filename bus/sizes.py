"""Sizes as people write them. Light: workers import it."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
}  # fmt: skip
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?I?B)", re.IGNORECASE)


def parse_size(size: int | str) -> int:
    """Bytes of a size: a whole number, or one like `2GB` (10^9) or `1.5 GiB` (2^30). Raises `ValueError`."""
    if isinstance(size, int):
        return size
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        raise ValueError(f"{size!r} is no size; write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def shown_size(size: int) -> str:
    """A size for people: `2 GB`, `1.5 GiB`."""
    for unit, name in ((10**9, "GB"), (1 << 30, "GiB"), (10**6, "MB"), (1 << 20, "MiB")):
        if size >= unit and size % (unit // 2) == 0:
            return f"{size / unit:g} {name}"
    return f"{size} bytes"
