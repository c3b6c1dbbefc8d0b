"""Hints as JSON schemas: what both ways of reading hints, from objects and from source, have in common.

A hint that has no form in JSON, or that is not known here, is `{}`: it promises nothing, and refuses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

Schema = dict[str, Any]

MOST_DEPTH: Final = 12
"""Hints that are nested deeper, or that contain themselves, are not followed further."""

_MOST_DEFAULT = 1000
_MOST_INTEGER = 2**53  # beyond it JSON's readers do not agree

PLAIN: Final[Mapping[str, Schema]] = {
    "builtins.NoneType": {"type": "null"},
    "builtins.bool": {"type": "boolean"},
    "builtins.float": {"type": "number"},
    "builtins.int": {"type": "integer"},
    "builtins.str": {"type": "string"},
    "builtins.dict": {"type": "object"},
    "builtins.list": {"type": "array"},
    "builtins.tuple": {"type": "array"},
    "builtins.set": {"type": "array", "uniqueItems": True},
    "builtins.frozenset": {"type": "array", "uniqueItems": True},
    "collections.OrderedDict": {"type": "object"},
    "collections.defaultdict": {"type": "object"},
    "collections.deque": {"type": "array"},
    "collections.abc.Collection": {"type": "array"},
    "collections.abc.Iterable": {"type": "array"},
    "collections.abc.Mapping": {"type": "object"},
    "collections.abc.MutableMapping": {"type": "object"},
    "collections.abc.MutableSequence": {"type": "array"},
    "collections.abc.MutableSet": {"type": "array", "uniqueItems": True},
    "collections.abc.Sequence": {"type": "array"},
    "collections.abc.Set": {"type": "array", "uniqueItems": True},
    "datetime.date": {"type": "string", "format": "date"},
    "datetime.datetime": {"type": "string", "format": "date-time"},
    "datetime.time": {"type": "string", "format": "time"},
    "datetime.timedelta": {"type": "string", "format": "duration"},
    "decimal.Decimal": {"type": ["number", "string"]},
    "ipaddress.IPv4Address": {"type": "string", "format": "ipv4"},
    "ipaddress.IPv6Address": {"type": "string", "format": "ipv6"},
    "os.PathLike": {"type": "string", "format": "path"},
    "pathlib.Path": {"type": "string", "format": "path"},
    "pathlib.PosixPath": {"type": "string", "format": "path"},
    "pathlib.PurePath": {"type": "string", "format": "path"},
    "pathlib.PurePosixPath": {"type": "string", "format": "path"},
    "uuid.UUID": {"type": "string", "format": "uuid"},
}
"""What a hint without parameters is, by the full name of its class. A value arrives as JSON has it: a time as text."""

_OTHER_NAMES = {
    "typing.AbstractSet": "collections.abc.Set",
    "typing.DefaultDict": "collections.defaultdict",
    "typing.Deque": "collections.deque",
    "typing.Dict": "builtins.dict",
    "typing.FrozenSet": "builtins.frozenset",
    "typing.List": "builtins.list",
    "typing.OrderedDict": "collections.OrderedDict",
    "typing.Set": "builtins.set",
    "typing.Text": "builtins.str",
    "typing.Tuple": "builtins.tuple",
    "types.NoneType": "builtins.NoneType",
    **{
        f"typing.{name}": f"collections.abc.{name}"
        for name in (
            "Collection",
            "Iterable",
            "Mapping",
            "MutableMapping",
            "MutableSequence",
            "MutableSet",
            "Sequence",
        )
    },
}

# What `Annotated` carries: the attributes of annotated-types, msgspec's Meta and pydantic's fields.
CONSTRAINTS: Final[Mapping[str, tuple[str, ...]]] = {
    "ge": ("minimum",),
    "gt": ("exclusiveMinimum",),
    "le": ("maximum",),
    "lt": ("exclusiveMaximum",),
    "multiple_of": ("multipleOf",),
    "min_length": ("minLength", "minItems", "minProperties"),
    "max_length": ("maxLength", "maxItems", "maxProperties"),
}
_LENGTHS = {"string": 0, "array": 1, "object": 2}
_NUMBERS = ("integer", "number")


def canonical(name: str) -> str:
    """The full name of the class that a name of `typing` stands for."""
    if name.startswith("typing_extensions."):
        name = "typing." + name.partition(".")[2]
    return _OTHER_NAMES.get(name, name)


def plain(name: str) -> Schema:
    """The schema of a hint without parameters, by full name."""
    return dict(PLAIN.get(canonical(name), {}))


def generic(name: str, arguments: list[Schema], *, open_ended: bool = False) -> Schema:
    """The schema of a hint with parameters; `open_ended` is `tuple[T, ...]`."""
    name = canonical(name)
    if name == "builtins.tuple" and not open_ended:
        count = len(arguments)
        fixed: Schema = {"type": "array", "minItems": count, "maxItems": count}
        return {**fixed, "prefixItems": arguments} if arguments else fixed
    base = plain(name)
    if base.get("type") == "array" and arguments:
        return {**base, "items": arguments[0]} if arguments[0] else base
    if base.get("type") == "object" and len(arguments) == 2:
        return {**base, "additionalProperties": arguments[1]} if arguments[1] else base
    return base


def union(schemas: Iterable[Schema]) -> Schema:
    """What fits any of these."""
    parts: list[Schema] = []
    for each in schemas:
        if each and each.keys() == {"anyOf"}:
            parts += each["anyOf"]
        else:
            parts.append(each)
    if not all(parts):
        return {}
    different = [each for place, each in enumerate(parts) if each not in parts[:place]]
    if len(different) == 1:
        return different[0]
    if all(each.keys() == {"type"} for each in different):
        names = [name for each in different for name in _types(each)]
        return {"type": list(dict.fromkeys(names))}
    return {"anyOf": different}


def choice(values: Iterable[Any]) -> Schema:
    """One of these values; `{}` when JSON has no form for one of them."""
    found = list(values)
    return {"enum": found} if found and all(_is_json(value, 0) for value in found) else {}


def members(properties: Mapping[str, Schema], required: Iterable[str], *, title: str, closed: bool) -> Schema:
    """An object with these members."""
    needed = sorted(required)
    return {
        "type": "object",
        "title": title,
        "properties": dict(properties),
        **({"required": needed} if needed else {}),
        **({"additionalProperties": False} if closed else {}),
    }


def constrained(schema: Schema, constraints: Mapping[str, Any]) -> Schema:
    """The schema with what `Annotated` says of it, as far as that fits its type."""
    types = _types(schema)
    added: Schema = {}
    for name, keywords in CONSTRAINTS.items():
        value = constraints.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if len(keywords) == 1 and any(each in _NUMBERS for each in types):
            if name != "multiple_of" or value > 0:
                added[keywords[0]] = value
        elif len(keywords) == 3 and isinstance(value, int) and value >= 0:
            added.update({keywords[_LENGTHS[each]]: value for each in types if each in _LENGTHS})
    for name in ("title", "description"):
        text = constraints.get(name)
        if isinstance(text, str) and text:
            added[name] = text
    return {**schema, **added}


def nullable(schema: Schema) -> Schema:
    """What fits the schema, or is null."""
    return union([schema, {"type": "null"}])


def accepts_null(schema: Schema) -> bool:
    """Whether null fits the schema, as far as it can be seen."""
    if "anyOf" in schema:
        return any(accepts_null(each) for each in schema["anyOf"])
    if "enum" in schema:
        return None in schema["enum"]
    return "type" not in schema or "null" in _types(schema)


def as_default(value: Any) -> tuple[Any] | None:
    """A parameter's default in a tuple, as JSON has it; None when JSON has no form for it, or it is long."""
    try:
        if not _is_json(value, 0) or len(repr(value)) > _MOST_DEFAULT:
            return None
    except Exception:  # the `repr` of an object may do anything
        return None
    return (list(value) if isinstance(value, tuple) else value,)


def _is_json(value: Any, depth: int) -> bool:
    if type(value) in (list, tuple):
        return depth < MOST_DEPTH and all(_is_json(each, depth + 1) for each in value)
    if type(value) is dict:
        members = all(type(key) is str and _is_json(each, depth + 1) for key, each in value.items())
        return depth < MOST_DEPTH and members
    if type(value) is int:
        return -_MOST_INTEGER <= value <= _MOST_INTEGER
    return value is None or type(value) in (bool, str) or (type(value) is float and math.isfinite(value))


def _types(schema: Schema) -> list[str]:
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else list(found)
