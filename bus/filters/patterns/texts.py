"""Tests of texts: beginnings, ends, letters of either case, wildcards. Each takes time linear in the text.

event-ruler compares texts together with their quotes, so `{"prefix": "ab\\""}` passes "ab"; so do we.
"""

from __future__ import annotations

import re
from collections.abc import Callable

TextTest = Callable[[str], bool]


def begins(prefix: str) -> TextTest:
    """Whether a text begins so."""
    whole = prefix[:-1] if prefix.endswith('"') else None
    return lambda text: text.startswith(prefix) or text == whole


def ends(suffix: str) -> TextTest:
    """Whether a text ends so."""
    whole = suffix[1:] if suffix.startswith('"') else None
    return lambda text: text.endswith(suffix) or text == whole


def equals_in_any_case(wanted: str) -> TextTest:
    """Whether a text is the same but for the case of its letters."""
    fits = re.compile(_any_case(wanted), re.DOTALL).fullmatch
    return lambda text: fits(text) is not None


def begins_in_any_case(prefix: str) -> TextTest:
    """Whether a text begins so but for the case of its letters."""
    fits = re.compile(_any_case(prefix), re.DOTALL).match
    return lambda text: fits(text + '"') is not None


def ends_in_any_case(suffix: str) -> TextTest:
    """Whether a text ends so but for the case of its letters."""
    # Read backwards, so that a long text is not searched from each of its places.
    fits = re.compile(_any_case(suffix, backwards=True), re.DOTALL).match
    return lambda text: fits(text[::-1] + '"') is not None


def fits_wildcard(pieces: list[str]) -> TextTest:
    """Whether a text is these pieces in this order with anything between two of them (nothing, too)."""
    if len(pieces) == 1:
        return pieces[0].__eq__
    first, *middle, last = pieces
    least = len(first) + len(last)

    def fits(text: str) -> bool:
        if len(text) < least or not text.startswith(first) or not text.endswith(last):
            return False
        # The leftmost place of each piece leaves most for the others: nothing has to be tried twice.
        at, end = len(first), len(text) - len(last)
        for piece in middle:
            at = text.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return fits


def wildcard_pieces(wanted: str) -> list[str]:
    """The texts between the asterisks; `\\*` and `\\\\` are an asterisk and a backslash. Raises `ValueError`."""
    pieces, signs = [""], iter(enumerate(wanted))
    for at, sign in signs:
        if sign == "*":
            if wanted.startswith("*", at + 1):
                raise ValueError(f"two asterisks follow each other at character {at + 1}")
            pieces.append("")
        elif sign == "\\":
            _, escaped = next(signs, (at, ""))
            if escaped not in ("*", "\\") or not escaped:
                raise ValueError(f"the backslash at character {at + 1} must stand before * or another backslash")
            pieces[-1] += escaped
        else:
            pieces[-1] += sign
    return pieces


def _any_case(wanted: str, *, backwards: bool = False) -> str:
    """A regular expression: each character small or capital, on its own, as Java does it (so ß is SS)."""
    forms = []
    for sign in reversed(wanted) if backwards else wanted:
        # Java folds UTF-16 units: what takes two of them has no case.
        small, large = (sign.lower(), sign.upper()) if ord(sign) <= 0xFFFF else (sign, sign)
        if backwards:
            small, large = small[::-1], large[::-1]
        forms.append(re.escape(small) if small == large else f"(?:{re.escape(small)}|{re.escape(large)})")
    return "".join(forms)
