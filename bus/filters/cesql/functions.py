"""The built-in functions (section 3.5). Positions are characters, counted from 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace.bus.filters.cesql.casting import LEAST, MOST, to_boolean, to_integer, to_string
from headrace.bus.filters.cesql.faults import Fault, FaultKind, Value


@dataclass(frozen=True, slots=True)
class Function:
    """One function. `takes` are the types of its arguments; with `more` any number of the last type may follow."""

    name: str
    takes: tuple[type, ...]
    gives: type
    body: Callable[..., Value]
    more: type | None = None


def find(name: str, arity: int) -> Function | None:
    """The function of this name, in whatever case, that takes so many arguments."""
    for each in _BUILT_IN.get(name.upper(), ()):
        if len(each.takes) == arity or (each.more is not None and arity > len(each.takes)):
            return each
    return None


def _left(text: str, count: int) -> str:
    if count < 0:
        raise Fault(FaultKind.FUNCTION_EVALUATION, text)
    return text[:count]


def _right(text: str, count: int) -> str:
    if count < 0:
        raise Fault(FaultKind.FUNCTION_EVALUATION, text)
    return text[-count:] if count else ""


def _substring(text: str, position: int, length: int | None = None) -> str:
    if abs(position) > len(text) or (length is not None and length < 0):
        raise Fault(FaultKind.FUNCTION_EVALUATION)
    if position == 0:
        return ""
    start = position - 1 if position > 0 else len(text) + position
    return text[start:] if length is None else text[start : start + length]


def _absolute(number: int) -> int:
    if number == LEAST:
        raise Fault(FaultKind.MATH, MOST)
    return abs(number)


def _concatenated(*texts: str) -> str:
    return "".join(texts)


def _joined(delimiter: str, *texts: str) -> str:
    return delimiter.join(texts)


_ALL: Final = (
    Function("LENGTH", (str,), int, len),
    Function("CONCAT", (), str, _concatenated, more=str),
    Function("CONCAT_WS", (str,), str, _joined, more=str),
    Function("LOWER", (str,), str, str.lower),
    Function("UPPER", (str,), str, str.upper),
    Function("TRIM", (str,), str, str.strip),
    Function("LEFT", (str, int), str, _left),
    Function("RIGHT", (str, int), str, _right),
    Function("SUBSTRING", (str, int), str, _substring),
    Function("SUBSTRING", (str, int, int), str, _substring),
    Function("ABS", (int,), int, _absolute),
    Function("INT", (object,), int, to_integer),
    Function("BOOL", (object,), bool, to_boolean),
    Function("STRING", (object,), str, to_string),
)
_BUILT_IN: Final[dict[str, tuple[Function, ...]]] = {
    name: tuple(each for each in _ALL if each.name == name) for name in {each.name for each in _ALL}
}

__all__ = ["Function", "find"]
