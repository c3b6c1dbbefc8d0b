"""The schema of a function object. Nothing of it is called, and nothing that it holds can make this fail."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import inspect
import pathlib
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from inspect import _ParameterKind
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from headrace.sdk.input_schema import forms
from headrace.sdk.input_schema.docstrings import parameter_texts, summary
from headrace.sdk.input_schema.forms import Schema
from headrace.sdk.input_schema.signatures import ANY, Parameter, assemble

_QUALIFIERS = ("Required", "NotRequired", "ReadOnly", "Final", "ClassVar")


def of_function(function: Callable[..., Any]) -> Schema:
    """The schema of a callable's arguments by name; `{"type": "object"}` when its signature cannot be had."""
    try:
        if isinstance(command := getattr(function, "cmd", None), str) and _is_command(function):
            return _of_command(command)
        signature = inspect.signature(function)
        hints = _hints_of(function)
        parameters = [_parameter(each, hints) for each in signature.parameters.values()]
        docstring = inspect.getdoc(function) if _has_own_doc(function) else None
        return assemble(parameters, _texts(function, docstring), summary(docstring))
    except Exception:  # objects may answer anything with anything, and a schema is not worth a registration
        return dict(ANY)


def of_hint(hint: Any) -> Schema:
    """The schema of what a type hint allows, as JSON has it."""
    return _Reader().read(hint)


def _is_command(function: Any) -> bool:
    from headrace.bus.shell import ShellFunction

    return isinstance(function, ShellFunction)


def _of_command(command: str) -> Schema:
    from headrace.bus.shell_template import field_names

    kind = _ParameterKind.POSITIONAL_OR_KEYWORD
    return assemble([Parameter(name=name, kind=kind, schema={}) for name in field_names(command)], {}, "")


def _parameter(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Parameter:
    hint = hints.get(parameter.name, parameter.annotation)
    schema = {} if hint is inspect.Parameter.empty or isinstance(hint, str) else _safely(hint)
    if parameter.kind is _ParameterKind.VAR_KEYWORD and _name_of(get_origin(hint)) == "typing.Unpack":
        schema = {}
    optional = parameter.default is not inspect.Parameter.empty
    return Parameter(
        name=parameter.name,
        kind=parameter.kind,
        schema=schema,
        optional=optional,
        default=_default(parameter.default) if optional else None,
    )


def _safely(hint: Any) -> Schema:
    try:
        return of_hint(hint)
    except Exception:  # a hint may be any object
        return {}


def _default(value: Any) -> tuple[Any] | None:
    if isinstance(value, enum.Enum):
        return forms.as_default(value.value)
    if isinstance(value, pathlib.PurePath | uuid.UUID):
        return (str(value),)
    if isinstance(value, datetime.date | datetime.time):
        return (value.isoformat(),)
    return forms.as_default(value)


def _has_own_doc(function: Any) -> bool:
    # `inspect.getdoc` of an object without a docstring is that of its class.
    return inspect.isroutine(function) or isinstance(function, type)


def _texts(function: Any, docstring: str | None) -> dict[str, str]:
    constructor = vars(function).get("__init__") if isinstance(function, type) else None
    of_constructor = parameter_texts(getattr(constructor, "__doc__", None))
    return {**of_constructor, **parameter_texts(docstring)}


def _hints_of(function: Any) -> dict[str, Any]:
    """The hints of the parameters, names resolved where that can be done."""
    target = function
    while isinstance(target, functools.partial) or hasattr(target, "__wrapped__"):
        target = target.func if isinstance(target, functools.partial) else target.__wrapped__
    if isinstance(target, type):
        if dataclasses.is_dataclass(target):
            return _resolved(target.__annotations__, vars(inspect.getmodule(target) or SimpleNamespace()))
        target = vars(target).get("__init__") or target.__new__
    elif not inspect.isroutine(target):
        target = type(target).__call__
    target = getattr(target, "__func__", target)
    return _resolved(getattr(target, "__annotations__", {}), getattr(target, "__globals__", {}))


def _resolved(annotations: Mapping[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in annotations.items():
        try:
            # One by one: a name that is imported for type checkers only spoils its own parameter, not all.
            one = SimpleNamespace(__annotations__={name: hint})
            found[name] = typing.get_type_hints(one, scope, include_extras=True)[name]
        except Exception:  # evaluating a text may raise anything
            found[name] = inspect.Parameter.empty
    return found


class _Reader:
    """Reads one hint; `_open` are the classes that are being read, which may contain themselves."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def read(self, hint: Any, depth: int = 0) -> Schema:
        if depth > forms.MOST_DEPTH:
            return {}
        if hint is None:
            return {"type": "null"}
        if get_origin(hint) is not None:
            return self._generic(get_origin(hint), hint, depth)
        return self._class(hint, depth) if isinstance(hint, type) else self._named(hint, depth)

    def _named(self, hint: Any, depth: int) -> Schema:
        if isinstance(hint, TypeVar):
            return self._type_variable(hint, depth)
        if hasattr(hint, "__supertype__"):
            return self.read(hint.__supertype__, depth + 1)
        if type(hint).__name__ == "TypeAliasType":
            return self._once(hint, lambda: self.read(hint.__value__, depth + 1))
        return forms.plain(_name_of(hint))

    def _generic(self, origin: Any, hint: Any, depth: int) -> Schema:
        arguments = get_args(hint)
        if origin in (Union, types.UnionType):
            return forms.union(self.read(each, depth + 1) for each in arguments)
        if origin is Literal:
            return forms.choice(each.value if isinstance(each, enum.Enum) else each for each in arguments)
        if origin is Annotated:
            return self._annotated(arguments, depth)
        name = _name_of(origin)
        if name.rpartition(".")[2] in _QUALIFIERS and name.startswith("typing"):
            return self.read(arguments[0], depth + 1)
        if type(origin).__name__ == "TypeAliasType":
            return {}
        open_ended = len(arguments) == 2 and arguments[1] is Ellipsis
        kept = arguments[:1] if open_ended else arguments
        return forms.generic(name, [self.read(each, depth + 1) for each in kept], open_ended=open_ended)

    def _annotated(self, arguments: tuple[Any, ...], depth: int) -> Schema:
        schema = self.read(arguments[0], depth + 1)
        # A pydantic field has its bounds in a list of its own.
        inner = [more for each in arguments[1:] for more in _listed(getattr(each, "metadata", None))]
        for each in (*arguments[1:], *inner):
            names = (*forms.CONSTRAINTS, "title", "description")
            said = {name: getattr(each, name, None) for name in names} if not isinstance(each, str | type) else {}
            if isinstance(each, str) or isinstance(getattr(each, "documentation", None), str):
                said["description"] = each if isinstance(each, str) else each.documentation
            schema = forms.constrained(schema, said)
        return schema

    def _type_variable(self, hint: TypeVar, depth: int) -> Schema:
        if hint.__constraints__:
            return forms.union(self.read(each, depth + 1) for each in hint.__constraints__)
        return {} if hint.__bound__ is None else self.read(hint.__bound__, depth + 1)

    def _class(self, hint: type[Any], depth: int) -> Schema:
        if issubclass(hint, enum.Enum):
            return forms.choice(member.value for member in hint)
        if typing.is_typeddict(hint):
            return self._once(hint, lambda: self._typed_dict(hint, depth))
        if dataclasses.is_dataclass(hint):
            return self._once(hint, lambda: self._dataclass(hint, depth))
        if issubclass(hint, pathlib.PurePath):
            return forms.plain("pathlib.Path")
        return forms.plain(_name_of(hint))

    def _typed_dict(self, hint: Any, depth: int) -> Schema:
        hints = typing.get_type_hints(hint, include_extras=True)
        properties = {name: self.read(each, depth + 1) for name, each in hints.items()}
        return forms.members(properties, hint.__required_keys__, title=hint.__name__, closed=False)

    def _dataclass(self, hint: Any, depth: int) -> Schema:
        hints = typing.get_type_hints(hint, include_extras=True)
        fields = [field for field in dataclasses.fields(hint) if field.init]
        required = [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        properties = {field.name: self.read(hints[field.name], depth + 1) for field in fields}
        return forms.members(properties, required, title=hint.__name__, closed=True)

    def _once(self, hint: Any, read: Callable[[], Schema]) -> Schema:
        if hint in self._open:
            return {}
        self._open.append(hint)
        try:
            return read()
        finally:
            self._open.pop()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _name_of(hint: Any) -> str:
    module = getattr(hint, "__module__", "")
    name = getattr(hint, "__qualname__", None) or getattr(hint, "_name", None) or ""
    return f"{module}.{name}"
