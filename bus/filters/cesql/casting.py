"""The three types, and how a value of one becomes one of another (section 3.7)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from headrace.bus.filters.cesql.faults import Fault, FaultKind, Value

LEAST: Final = -(2**31)
MOST: Final = 2**31 - 1

ZEROS: Final[dict[type, Value]] = {str: "", int: 0, bool: False}

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


def to_string(value: Value) -> str:
    """As text; true and false in small letters."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    return str(value)


def to_integer(value: Value) -> int:
    """As a 32 bit integer. Raises `Fault`."""
    if type(value) is int:
        return value
    if type(value) is bool:
        return int(value)
    number = int(value) if _INTEGER.fullmatch(str(value)) else None
    if number is None or not LEAST <= number <= MOST:
        raise Fault(FaultKind.CAST)
    return number


def to_boolean(value: Value) -> bool:
    """As true or false. Raises `Fault`."""
    if type(value) is bool:
        return value
    if type(value) is int:
        return value != 0
    found = _BOOLEANS.get(str(value).lower())
    if found is None:
        raise Fault(FaultKind.CAST)
    return found


CASTS: Final[dict[type, Callable[[Value], Any]]] = {str: to_string, int: to_integer, bool: to_boolean}


def of_attribute(value: object) -> Value:
    """An attribute of an event as one of the three types."""
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not tell 1.0 from 1.
    if isinstance(value, int) and LEAST <= value <= MOST:
        return value
    return str(value)
