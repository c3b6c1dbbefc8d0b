"""Texts, numbers, booleans and null as patterns compare them, and events as they are read for it.

Numbers are compared as IEEE doubles, if a double is exactly what is written (300, 3.0e2 and 300.0 are one); the digits
of others, such as 9007199254740993, are compared as text. True is not 1, and nothing equals a text but a text.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from headrace.bus.errors import DecodeError

_MOST_EXACT: Final = 2**53


class Word(enum.Enum):
    """What Python takes for numbers."""

    TRUE = "true"
    FALSE = "false"


@dataclass(frozen=True, slots=True)
class LongNumber:
    """A number that no double is."""

    text: str

    @property
    def exact(self) -> Decimal | None:
        """The number itself; None when even decimals cannot hold it."""
        try:
            return Decimal(self.text)
        except InvalidOperation:
            return None


Scalar = str | float | Word | LongNumber | None


def number(text: str) -> float | LongNumber:
    """The number that is written so."""
    try:
        double, exact = float(text), Decimal(text)
    except (ValueError, InvalidOperation):
        return LongNumber(text)
    if math.isfinite(double) and Decimal(repr(double)) == exact:
        return double
    return LongNumber(text)


def scalar(value: Any) -> Scalar:
    """A value of an event, ready to be compared; lists and objects have no business here."""
    kind = type(value)
    if kind is str or kind is float or value is None or kind is LongNumber:
        return value  # type: ignore[no-any-return]  # one of the four
    if kind is bool:
        return Word.TRUE if value else Word.FALSE
    if kind is int:
        return float(value) if -_MOST_EXACT <= value <= _MOST_EXACT else number(str(value))
    return str(value)


class Repeated(dict[str, Any]):
    """An object with a name that comes more than once. `pairs` has them all."""

    pairs: list[tuple[str, Any]]


def read_event(source: str | bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """An event as an object. A text keeps the digits of its numbers, and repeated names. Raises `DecodeError`."""
    if isinstance(source, Mapping):
        return source
    try:
        event = json.loads(
            source, object_pairs_hook=_object, parse_int=number, parse_float=number, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the event is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise DecodeError("an event is a JSON object")
    return event


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    repeated = Repeated(plain)
    repeated.pairs = pairs
    return repeated


def _refuse(word: str) -> None:
    raise ValueError(f"JSON has no {word}")
