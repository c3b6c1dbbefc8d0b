"""IP addresses: ranges of them, and one address in any spelling.

event-ruler compares addresses as hexadecimal digits, from the left, and is content as soon as a digit lies strictly
between the ends of the range; whatever comes behind it does not count. So a range of IPv4 also holds the IPv6
addresses (and, where no other number is asked for, the numbers) that begin like it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.bus.filters.patterns.many import Intervals

_V4 = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
_V6 = re.compile(r"[0-9a-fA-F:]*:[0-9a-fA-F:]*")
_HEX_DIGITS = "0123456789ABCDEF"
_HEX = frozenset(_HEX_DIGITS)
_DIGITS = (8, 32)
"""Of addresses of IPv4 and IPv6."""


def address(text: str) -> bytes | None:
    """The 4 or 16 bytes of an address, or None. Leading zeros are decimal; a mapped IPv4 address is one."""
    if len(text) > 64:
        return None
    try:
        if _V4.fullmatch(text):
            return bytes(map(int, text.split(".")))
        if _V6.fullmatch(text):
            found = ipaddress.IPv6Address(re.sub(r"(?<![0-9a-fA-F])0+(?=[0-9a-fA-F])", "", text))
            return (found.ipv4_mapped or found).packed
    except ValueError:
        pass
    return None


@dataclass(frozen=True, slots=True)
class AddressRange:
    """From one address to another, both included, as hexadecimal digits of the same number. `strict` goes by all of the
    digits, as one would expect."""

    bottom: str
    top: str
    strict: bool = False

    def holds(self, text: str) -> bool:
        """Whether an address is in the range. What is no address is not."""
        found = address(text)
        return found is not None and self.holds_digits(found.hex().upper())

    def holds_digits(self, digits: str) -> bool:
        """Whether these digits are, as event-ruler compares them (or, if strict, as numbers)."""
        if self.strict:
            return len(digits) == len(self.bottom) and self.bottom <= digits <= self.top
        at_bottom = at_top = True
        for digit, bottom, top in zip(digits, self.bottom, self.top, strict=False):
            if digit not in _HEX or (at_bottom and digit < bottom) or (at_top and digit > top):
                return False
            at_bottom, at_top = at_bottom and digit == bottom, at_top and digit == top
            if not at_bottom and not at_top:
                return True
        return len(digits) >= len(self.bottom)


class AddressRanges:
    """Several ranges, asked at once."""

    def __init__(self, ranges: Sequence[AddressRange]) -> None:
        self._ranges = {size: [each for each in ranges if len(each.bottom) == size] for size in _DIGITS}
        self._intervals: dict[tuple[int, int], Intervals[str]] = {}

    def hold(self, digits: str) -> bool:
        """Whether one of them holds these digits, as `AddressRange.holds_digits` says it."""
        known = len(digits) - len(digits.lstrip(_HEX_DIGITS))
        return any(self._hold(digits[: min(known, size)], size, len(digits)) for size in _DIGITS if self._ranges[size])

    def _hold(self, digits: str, size: int, whole: int) -> bool:
        if self._ranges[size][0].strict:
            # All ranges of a field are strict, or none.
            if whole != size:
                return False
            return self._of(size, size).hold(digits) if len(digits) == size else False
        return self._of(size, len(digits)).hold(digits)

    def _of(self, size: int, count: int) -> Intervals[str]:
        """The ranges of so many digits, for addresses of which only `count` digits can be compared."""
        found = self._intervals.get((size, count))
        if found is None:
            # Where digits are missing at the end, what lies at an end of the range is not decided, and so not in it.
            bottom, top = (0, 1) if count == size else (1, 0)
            pairs = (((each.bottom[:count], bottom), (each.top[:count], top)) for each in self._ranges[size])
            found = self._intervals[size, count] = Intervals(pairs)
        return found


def one_address(text: str, *, strict: bool = False) -> AddressRange | None:
    """The range of one address, or None when this is none."""
    found = address(text)
    return None if found is None else AddressRange(found.hex().upper(), found.hex().upper(), strict)


def block(text: str, *, strict: bool = False) -> AddressRange:
    """The range of a CIDR block; bits of the host may be set. A block of a single address only if `strict`.

    Raises `ValueError`.
    """
    base, slash, bits = text.rstrip("/").partition("/")
    found = address(base)
    if not slash or found is None:
        raise ValueError(f"{text[:60]!r} is not a block of addresses such as 10.0.0.0/8 or 2001:db8::/32")
    if not re.fullmatch(r"\+?[0-9]{1,9}", bits):
        raise ValueError(f"{bits[:20]!r} is not a number of bits")
    size, mask = len(found) * 8, int(bits)
    most = size if strict else size - 1
    if mask > most:
        raise ValueError(f"{mask} bits are too many: at most {most}")
    free = (1 << (size - mask)) - 1
    value = int.from_bytes(found)
    digits = size // 4
    return AddressRange(f"{value & ~free:0{digits}X}", f"{value | free:0{digits}X}", strict)
