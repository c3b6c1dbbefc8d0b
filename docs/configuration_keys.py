"""The keys of an endpoint's configuration, for `generate.py`: from the schemas, and from the engines' settings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin

from headrace.endpoint.configuration.yaml_file import NO_EFFECT, REFUSED
from headrace.endpoint.engines.keys import Keys, hints
from headrace.endpoint.engines.providers import LAUNCHERS, PROVIDERS, Launcher, Provider
from headrace.endpoint.engines.settings import ENGINES, Address, Scaling
from headrace.schemas import schema

Row = tuple[str, str, str]

_NAMES: Final[Mapping[Any, str]] = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def file_keys(name: str) -> list[Row]:
    """Key, meaning and default of all that do something in a file with this schema."""
    return [
        (f"`{key}`", str(each["description"]), _default(each.get("default")))
        for key, each in schema(name)["properties"].items()
        if not {NO_EFFECT, REFUSED} & each.keys()
    ]


def foreign_keys() -> list[Row]:
    """Key, files and what becomes of each key of Globus Compute that does nothing here, or is refused."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, file in (("endpoint-config", "config.yaml"), ("pool-config", "template")):
        for key, each in schema(name)["properties"].items():
            if NO_EFFECT in each:
                found.setdefault((key, f"nothing: {each[NO_EFFECT]}"), []).append(file)
            elif REFUSED in each:
                found.setdefault((key, f"refused: {each[REFUSED]}"), []).append(file)
    return [(f"`{key}`", ", ".join(files), what) for (key, what), files in sorted(found.items())]


def engine_sections() -> Iterator[tuple[str, str, list[Row]]]:
    """Title, text and keys of each engine, then of what engines have below them."""
    for kind, names in _by_kind(ENGINES):
        yield f"`{names[0]}`", _text(kind, names[1:]), _rows(kind)
    yield "`job_status_kwargs`", _text(Scaling), _rows(Scaling)
    yield "`address`", _text(Address), _rows(Address)


def provider_sections() -> Iterator[tuple[str, str, list[Row]]]:
    """The same for providers and launchers."""
    yield "Every provider", "These keys go with each of the types below.", _rows(Provider)
    common = {row[0] for row in _rows(Provider)}
    for kind, names in _by_kind(PROVIDERS):
        yield f"`{names[0]}`", _text(kind, names[1:]), [row for row in _rows(kind) if row[0] not in common]
    types_known = ", ".join(f"`{name}`" for name in LAUNCHERS)
    yield "`launcher`", f"{_text(Launcher)} Types: {types_known}.", _rows(Launcher)


def _by_kind(known: Mapping[str, type[Keys]]) -> Iterator[tuple[type[Keys], list[str]]]:
    for kind in dict.fromkeys(known.values()):
        yield kind, [name for name, each in known.items() if each is kind]


def _text(kind: type[Keys], names: list[str] | None = None) -> str:
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    others = f" Other names: {', '.join(f'`{name}`' for name in names)}." if names else ""
    return text + others


def _rows(kind: type[Keys]) -> list[Row]:
    said = _said_of_fields(kind)
    also = {
        field: [name for name, means in kind.synonyms.items() if means == field] for field in kind.synonyms.values()
    }
    rows = []
    for field in dataclasses.fields(kind):
        if field.name == "type" and kind is not Launcher and kind is not Address:
            continue
        names = ", ".join(f"`{name}`" for name in (field.name, *also.get(field.name, ())))
        meaning = f"{_shown_type(hints(kind)[field.name])}. {said.get(field.name, '')}".rstrip()
        rows.append((names, meaning[:1].upper() + meaning[1:], _default(_field_default(field))))
    return rows


def _field_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return None if dataclasses.is_dataclass(field.default) else field.default
    return None


def _said_of_fields(kind: type[Any]) -> dict[str, str]:
    """The texts below the fields of a class and of its bases."""
    said: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if dataclasses.is_dataclass(each):
            for node in ast.parse(inspect.getsource(sys.modules[each.__module__])).body:
                if isinstance(node, ast.ClassDef) and node.name == each.__name__:
                    said |= _texts_below(node)
    return said


def _texts_below(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _shown_type(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _shown_type(inside[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_shown_type(each) for each in inside if each is not type(None)))
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in inside)
    if origin in (list, tuple):
        return "list"
    return _NAMES.get(hint, "keys with values" if origin else "keys of its own, see below")


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
