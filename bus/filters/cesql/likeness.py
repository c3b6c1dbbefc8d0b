"""The patterns of LIKE: `%` is anything, `_` one character, and a backslash before one of them takes it as it is."""

from __future__ import annotations

import re
from collections.abc import Callable

_WILD = re.compile(r"[%_\\]")
_PART = re.compile(r"\\[%_]|[%_]|[^%_\\]+|\\", re.DOTALL)


def like(pattern: str) -> Callable[[str], bool]:
    """The test of a pattern; it takes time linear in the text."""
    pieces, length = [""], [0]
    for part in _PART.findall(pattern):
        if part == "%":
            pieces.append("")
            length.append(0)
        else:
            single = part == "_"
            text = part[1:] if part in (r"\%", r"\_") else part
            pieces[-1] += "." if single else re.escape(text)
            length[-1] += 1 if single else len(text)
    if len(pieces) == 1:
        whole = re.compile(pieces[0], re.DOTALL).fullmatch
        return lambda text: whole(text) is not None
    first, *middle, last = [re.compile(piece, re.DOTALL) for piece in pieces]
    begins, ends, searches = first.match, last.match, [each.search for each in middle if each.pattern]
    least, tail = length[0] + length[-1], length[-1]

    def fits(text: str) -> bool:
        if len(text) < least or begins(text) is None or ends(text, len(text) - tail) is None:
            return False
        at, end = length[0], len(text) - tail
        for search in searches:
            # The leftmost place leaves most for the others: nothing has to be tried twice.
            found = search(text, at, end)
            if found is None:
                return False
            at = found.end()
        return True

    return fits


def beginning_of(pattern: str) -> str:
    """What every text that fits begins with: the pattern up to its first wildcard or backslash."""
    found = _WILD.search(pattern)
    return pattern if found is None else pattern[: found.start()]
