"""Values as JSON (RFC 8259), for callers without Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MappingView
from datetime import date, datetime, time, timedelta
from enum import Enum
from math import isfinite
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

from headrace.bus.errors import ResultNotSerialisable
from headrace.schemas.errors import HeadraceError

_MOST_DEPTH = 200
_NAT = "NaT is no time; give None, or a text, in its place"

_to_json = msgspec.json.Encoder().encode


def encode_json(value: Any) -> bytes:
    """The value as JSON (RFC 8259). Raises `ResultNotSerialisable`, which names the place inside the value.

    None, bool, int, float and str go as they are, with these additions:

    - list, tuple, range, deque, views of a dict and numpy arrays are arrays; a set is an array in sorted order;
    - a dict, a dataclass, an attrs class or a msgspec Struct is an object; keys are strings, or ints, dates, UUIDs ...
      as their text;
    - numpy scalars are what `item()` gives, an Enum is its value;
    - datetime, date and time are ISO 8601 text; UUID, Path, Decimal and Fraction are their text.

    NaN, NaT and infinities are refused, for JSON has none, and so are bytes and time differences, whose text form only
    the author knows.
    """
    try:
        document = _jsonable(value, 0)
        try:
            return _to_json(document)
        except OverflowError:
            import json

            return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except _NotJsonError as error:
        where = "$" + "".join(reversed(error.path))
        raise ResultNotSerialisable(f"the value cannot be given as JSON: at {where}: {error.problem}") from None
    except UnicodeEncodeError as error:
        raise ResultNotSerialisable(
            f"the value cannot be given as JSON: a text is not valid Unicode: {error}"
        ) from error


class _NotJsonError(HeadraceError):
    """Unwinds from the place that JSON cannot carry; every level above adds its step to `path`, innermost first."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []
        super().__init__(problem)


_AS_IT_IS = frozenset({type(None), bool, int, str})


def _jsonable(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if kind is float:
        return _finite(value)
    if depth > _MOST_DEPTH:
        raise _NotJsonError(f"more than {_MOST_DEPTH} levels deep, or it contains itself")
    if kind is list or kind is tuple:
        return _array(value, depth)
    if kind is dict:
        return _object(value, depth)
    return _jsonable_by_kind(value, depth)


def _jsonable_by_kind(value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line per rule
    if isinstance(value, Enum):
        return _jsonable(value.value, depth + 1)
    if isinstance(value, datetime | date | time):
        return _moment(value)
    if isinstance(value, UUID | PurePath) or type_name(value) in ("decimal.Decimal", "fractions.Fraction"):
        return str(value)
    if isinstance(value, str):  # of a subclass: what it is beneath
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _numpy(value, depth)
    if isinstance(value, float):
        return _finite(float(value))
    if isinstance(value, Mapping):
        return _object(value, depth)
    if isinstance(value, list | tuple | range | deque | MappingView):
        return _array(value, depth)
    if isinstance(value, set | frozenset):
        return _sorted_array(value, depth)
    fields = _fields(value)
    if fields is not None:
        return _object(fields, depth)
    raise _NotJsonError(_refusal(value))


def _finite(value: float) -> float:
    if not isfinite(value):
        raise _NotJsonError(f"{value} is a number that JSON does not have; give None, or a text, in its place")
    return value


def _moment(value: datetime | date | time) -> str:
    if value != value:  # noqa: PLR0124 - pandas says so of what is no time
        raise _NotJsonError(_NAT)
    return value.isoformat()


def _numpy(value: Any, depth: int) -> Any:
    kind = getattr(value.dtype, "kind", "")  # others than numpy have arrays with a `dtype`, too
    if kind == "M" and hasattr(value, "astype"):  # nanoseconds come out of `tolist` as bare integers
        if (value != value).any():  # noqa: PLR0124 - so it is with NaT
            raise _NotJsonError(_NAT)
        return _jsonable(value.astype("datetime64[us]").tolist(), depth + 1)
    if kind and kind in "mVSc":
        raise _NotJsonError(f"numpy values of dtype {value.dtype} have no JSON form; convert them first")
    return _jsonable(value.tolist(), depth + 1)


def _array(items: Any, depth: int) -> list[Any]:
    result = []
    for place, item in enumerate(items):
        try:
            result.append(_jsonable(item, depth + 1))
        except _NotJsonError as error:
            error.path.append(f"[{place}]")
            raise
    return result


def _sorted_array(items: Any, depth: int) -> list[Any]:
    result = _array(items, depth)
    try:
        return sorted(result)
    except TypeError:  # of several types: any order serves, if it is always the same
        return sorted(result, key=_to_json)


def _object(items: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in items.items():
        try:
            name = key if type(key) is str else _key(key, depth)
            if name in result:
                raise _NotJsonError(f"two keys have the text {name!r}")
            result[name] = _jsonable(item, depth + 1)
        except _NotJsonError as error:
            error.path.append(f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]")
            raise
    return result


def _key(key: Any, depth: int) -> str:
    text = None if isinstance(key, tuple | frozenset | bool) else _jsonable(key, depth + 1)
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise _NotJsonError(f"a key of type {type_name(key)}; keys of JSON objects are text, so convert it")
    return str(text)


def _fields(value: Any) -> dict[str, Any] | None:
    kind = type(value)
    names = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "__struct_fields__", None)
    if names is None and hasattr(kind, "__attrs_attrs__"):
        names = [attribute.name for attribute in kind.__attrs_attrs__]
    return None if names is None else {name: getattr(value, name) for name in names if hasattr(value, name)}


def _refusal(value: Any) -> str:
    name = f"type {type_name(value)}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{name}; give text instead, for instance base64.b64encode(...).decode()"
    if isinstance(value, timedelta):
        return f"{name}; give a number instead, for instance value.total_seconds()"
    if hasattr(value, "model_dump"):
        return f"{name}; give plain data instead, for instance value.model_dump(mode='json')"
    if hasattr(value, "to_dict"):
        return f"{name}; give plain data instead, for instance value.to_dict()"
    if hasattr(value, "__next__"):
        return f"{name}; give list(...) of it instead"
    return f"{name} has no JSON form; give plain data (numbers, text, lists, dicts) instead"


def type_name(value: Any) -> str:
    """The type of a value as a person writes it: `int`, `datetime.date`."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
