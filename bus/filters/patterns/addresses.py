"""IP addresses: ranges of them, and one address in any spelling.

event-ruler compares addresses as hexadecimal digits, from the left, and is content as soon as a digit lies strictly
between the ends of the range; whatever comes behind it does not count. So a range of IPv4 also holds the IPv6
addresses (and, where no other number is asked for, the numbers) that begin like it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_V4 = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
_V6 = re.compile(r"[0-9a-fA-F:]*:[0-9a-fA-F:]*")
_HEX = frozenset("0123456789ABCDEF")


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
