"""From parameters to the schema of the object whose members are a function's arguments.

    {"type": "object", "properties": {...}, "required": [...], "additionalProperties": false}

Members are passed by name. Two keywords of our own say what is not: `x-positional` lists, in order, the members that
are passed by position, as positional-only parameters must be, and so must everything before `*args`; `x-variadic` is
the member whose items follow them, which is a function's `*args`. What goes to `**kwargs` is `additionalProperties`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import _ParameterKind
from typing import Any, Final

from headrace.sdk.input_schema.forms import Schema, accepts_null, nullable

MOST_BYTES: Final = 32 * 1024
"""What the service takes as a schema; a derived one that is larger says less."""

ANY: Final[Schema] = {"type": "object"}
"""The schema of a function of which nothing is known."""

_POSITIONAL_ONLY = _ParameterKind.POSITIONAL_ONLY
_POSITIONAL = (_ParameterKind.POSITIONAL_ONLY, _ParameterKind.POSITIONAL_OR_KEYWORD)
_VARIADIC = _ParameterKind.VAR_POSITIONAL
_KEYWORDS = _ParameterKind.VAR_KEYWORD


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter. `default` holds the default in a tuple, where JSON has a form for it."""

    name: str
    kind: _ParameterKind
    schema: Schema
    optional: bool = False
    default: tuple[Any] | None = None


def assemble(parameters: Sequence[Parameter], texts: Mapping[str, str], about: str) -> Schema:
    """The schema of a function with these parameters. `texts` describe them, `about` the function."""
    for told in (texts, {}):
        schema = _assemble(parameters, told, about if told else "")
        try:
            if len(json.dumps(schema, ensure_ascii=False).encode()) <= MOST_BYTES:
                return schema
        except UnicodeEncodeError:
            continue  # half of a surrogate pair in a text
    return dict(ANY)


def _assemble(parameters: Sequence[Parameter], texts: Mapping[str, str], about: str) -> Schema:
    named = [each for each in parameters if each.kind not in (_VARIADIC, _KEYWORDS)]
    variadic = next((each for each in parameters if each.kind is _VARIADIC), None)
    keywords = next((each for each in parameters if each.kind is _KEYWORDS), None)
    properties = {each.name: _property(each, texts) for each in named}
    if variadic is not None:
        items = {"items": variadic.schema} if variadic.schema else {}
        properties[variadic.name] = _described({"type": "array", **items}, texts.get(variadic.name))
    required = [each.name for each in named if not each.optional]
    return {
        "type": "object",
        **({"description": about} if about else {}),
        "properties": properties,
        **({"required": required} if required else {}),
        **({} if keywords is None else {"additionalProperties": keywords.schema}),
        **({"additionalProperties": False} if keywords is None else {}),
        **_order(named, variadic),
    }


def _order(named: Sequence[Parameter], variadic: Parameter | None) -> Schema:
    kinds = (_POSITIONAL_ONLY,) if variadic is None else _POSITIONAL
    ordered = [each for each in named if each.kind in kinds]
    if not ordered and variadic is None:
        return {}
    needs: dict[str, list[str]] = {}
    only = [each for each in ordered if each.kind is _POSITIONAL_ONLY]
    for before, each in itertools.pairwise(only):
        # By position nothing can be left out but from the end.
        if before.optional:
            needs[each.name] = [before.name]
    before_all = [each.name for each in ordered if each.optional]
    if variadic is not None and before_all:
        needs[variadic.name] = before_all
    return {
        **({"dependentRequired": needs} if needs else {}),
        **({"x-positional": [each.name for each in ordered]} if ordered else {}),
        **({} if variadic is None else {"x-variadic": variadic.name}),
    }


def _property(parameter: Parameter, texts: Mapping[str, str]) -> Schema:
    schema = dict(parameter.schema)
    if parameter.default is not None:
        # `x: int = None` has always meant that None is fine.
        if parameter.default[0] is None and not accepts_null(schema):
            schema = nullable(schema)
        schema["default"] = parameter.default[0]
    return _described(schema, texts.get(parameter.name))


def _described(schema: Schema, text: str | None) -> Schema:
    return {**schema, "description": text} if text and "description" not in schema else schema
