"""The schema of a function in the text of a module, which is read and never run.

Names are followed through the module's own imports, aliases and classes (dataclasses, TypedDict, enumerations); what
comes from elsewhere is `{}`. A decorator may change what a function takes: with one that is not known, nothing is said.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from inspect import _ParameterKind

from headrace.sdk.input_schema import forms
from headrace.sdk.input_schema.docstrings import parameter_texts, summary
from headrace.sdk.input_schema.forms import Schema
from headrace.sdk.input_schema.module_names import FUNCTIONS, Module
from headrace.sdk.input_schema.signatures import ANY, Parameter, assemble

_KEEPS_SIGNATURE = ("functools.cache", "functools.lru_cache", "typing.no_type_check", "warnings.deprecated")
_UNIONS = ("typing.Union", "typing.Optional")
_QUALIFIERS = ("typing.Required", "typing.NotRequired", "typing.ReadOnly", "typing.Final", "typing.ClassVar")
_ENUMS = ("enum.Enum", "enum.IntEnum", "enum.StrEnum")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def of_source(source: str, name: str) -> Schema:
    """The schema of the arguments of the function or dataclass `name`; `{"type": "object"}` when it cannot be told."""
    try:
        module = Module(ast.parse(source))
        return _Reader(module).function(name)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return dict(ANY)


def docstring_of(source: str, name: str) -> str:
    """The docstring of the function or class `name`, as Python has it; empty where there is none."""
    try:
        node = Module(ast.parse(source)).defined.get(name)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return ""
    return ast.get_docstring(node, clean=False) or ""


class _Reader:
    def __init__(self, module: Module) -> None:
        self._module = module
        self._open: list[ast.AST] = []

    def function(self, name: str) -> Schema:
        """The schema of what the module calls `name`."""
        node = self._module.defined.get(name)
        if isinstance(node, ast.Lambda):
            return assemble(self._parameters(node.args), {}, "")
        if isinstance(node, ast.ClassDef):
            return self._constructor(node)
        if not isinstance(node, FUNCTIONS) or not self._keeps_signature(node):
            return dict(ANY)
        docstring = ast.get_docstring(node)
        return assemble(self._parameters(node.args), parameter_texts(docstring), summary(docstring))

    def hint(self, node: ast.AST, depth: int = 0) -> Schema:
        """The schema of what a type hint allows."""
        if depth > forms.MOST_DEPTH:
            return {}
        if isinstance(node, ast.Constant):
            return self._constant(node, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return forms.union([self.hint(node.left, depth + 1), self.hint(node.right, depth + 1)])
        if isinstance(node, ast.Subscript):
            return self._generic(node, depth)
        if isinstance(node, ast.Name) and node.id in self._module.defined:
            return self._own(self._module.defined[node.id], depth)
        return forms.plain(self._module.name(node))

    def _constant(self, node: ast.Constant, depth: int) -> Schema:
        if node.value is None:
            return {"type": "null"}
        if not isinstance(node.value, str):
            return {}
        try:
            return self.hint(ast.parse(node.value.strip(), mode="eval").body, depth + 1)
        except SyntaxError:
            return {}

    def _generic(self, node: ast.Subscript, depth: int) -> Schema:
        name = self._module.name(node.value)
        arguments = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "typing.Literal":
            return self._literal(arguments)
        if name == "typing.Annotated":
            return self._annotated(arguments, depth)
        if name in _UNIONS:
            parts = [self.hint(each, depth + 1) for each in arguments]
            return forms.union([*parts, {"type": "null"}] if name == "typing.Optional" else parts)
        if name in _QUALIFIERS:
            return self.hint(arguments[0], depth + 1)
        open_ended = len(arguments) == 2 and isinstance(arguments[1], ast.Constant) and arguments[1].value is Ellipsis
        kept = arguments[:1] if open_ended else arguments
        return forms.generic(name, [self.hint(each, depth + 1) for each in kept], open_ended=open_ended)

    def _literal(self, arguments: list[ast.expr]) -> Schema:
        values = []
        for each in arguments:
            member = self._member(each)
            found = forms.as_default(_value(each if member is None else member))
            if found is None:
                return {}
            values.append(found[0])
        return forms.choice(values)

    def _annotated(self, arguments: list[ast.expr], depth: int) -> Schema:
        schema = self.hint(arguments[0], depth + 1)
        for each in arguments[1:]:
            schema = forms.constrained(schema, self._said(each))
        return schema

    def _said(self, node: ast.expr) -> dict[str, object]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return {"description": node.value}
        if not isinstance(node, ast.Call):
            return {}
        name = self._module.name(node.func).rpartition(".")[2]
        said = {each.arg: _value(each.value) for each in node.keywords if each.arg}
        if name == "Doc" and node.args:
            return {"description": _value(node.args[0])}
        if name in ("Ge", "Gt", "Le", "Lt", "MultipleOf", "MinLen", "MaxLen") and len(node.args) == 1:
            keyword = {"MultipleOf": "multiple_of", "MinLen": "min_length", "MaxLen": "max_length"}
            return {keyword.get(name, name.lower()): _value(node.args[0])}
        return dict(said)

    def _own(self, node: ast.AST, depth: int) -> Schema:
        if isinstance(node, ast.ClassDef):
            return self._once(node, lambda: self._class(node, depth))
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.BinOp | ast.Constant):
            return self._once(node, lambda: self.hint(node, depth + 1))
        if isinstance(node, ast.Call) and self._module.name(node.func) == "typing.NewType" and len(node.args) == 2:
            return self._once(node, lambda: self.hint(node.args[1], depth + 1))
        return {}

    def _class(self, node: ast.ClassDef, depth: int) -> Schema:
        bases = [self._module.name(base) for base in node.bases]
        if any(base in _ENUMS for base in bases):
            return self._enumeration(node)
        if bases == ["typing.TypedDict"]:
            return self._typed_dict(node, depth)
        if self._is_dataclass(node):
            fields = self._fields(node)
            properties = {each.target.id: self.hint(each.annotation, depth + 1) for each in fields}
            required = [each.target.id for each in fields if not each.optional]
            return forms.members(properties, required, title=node.name, closed=True)
        return {}

    def _enumeration(self, node: ast.ClassDef) -> Schema:
        found = []
        for statement in node.body:
            if isinstance(statement, ast.Assign):
                value = forms.as_default(_value(statement.value))
                if value is None or len(statement.targets) != 1:
                    return {}
                found.append(value[0])
            elif isinstance(statement, ast.AnnAssign):
                return {}
        return forms.choice(found)

    def _member(self, node: ast.expr) -> ast.expr | None:
        """The value of a member of one of the module's own enumerations."""
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            return None
        owner = self._module.defined.get(node.value.id)
        for each in owner.body if isinstance(owner, ast.ClassDef) else ():
            if isinstance(each, ast.Assign) and [getattr(t, "id", "") for t in each.targets] == [node.attr]:
                return each.value
        return None

    def _typed_dict(self, node: ast.ClassDef, depth: int) -> Schema:
        total = not any(each.arg == "total" and _value(each.value) is False for each in node.keywords)
        properties, required = {}, []
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                properties[each.target.id] = self.hint(each.annotation, depth + 1)
                outer = each.annotation.value if isinstance(each.annotation, ast.Subscript) else each.annotation
                said = self._module.name(outer)
                if said == "typing.Required" or (total and said != "typing.NotRequired"):
                    required.append(each.target.id)
        return forms.members(properties, required, title=node.name, closed=False)

    def _is_dataclass(self, node: ast.ClassDef) -> bool:
        # Only the plain form: bases, and fields that other calls make, may change what the constructor takes.
        decorators = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
        names = [self._module.name(each) for each in decorators]
        plain = all(not isinstance(each.value, ast.Call) for each in self._fields(node))
        return names == ["dataclasses.dataclass"] and not node.bases and plain and self._method(node) is None

    def _fields(self, node: ast.ClassDef) -> list[_Field]:
        found = []
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                made = isinstance(each.value, ast.Call) and self._module.name(each.value.func) == "dataclasses.field"
                field = _Field.made(each.target, each) if made else _Field(each.target, each.annotation, each.value)
                if field.given and not self._is_no_field(each.annotation):
                    found.append(field)
        return found

    def _is_no_field(self, node: ast.expr) -> bool:
        outer = node.value if isinstance(node, ast.Subscript) else node
        return self._module.name(outer) in ("typing.ClassVar", "dataclasses.KW_ONLY")

    def _method(self, node: ast.ClassDef) -> _Function | None:
        return next((each for each in node.body if isinstance(each, FUNCTIONS) and each.name == "__init__"), None)

    def _constructor(self, node: ast.ClassDef) -> Schema:
        docstring = ast.get_docstring(node)
        if self._is_dataclass(node):
            parameters = [
                Parameter(
                    name=each.target.id,
                    kind=_ParameterKind.POSITIONAL_OR_KEYWORD,
                    schema=self.hint(each.annotation),
                    optional=each.optional,
                    default=None if each.value is None else self._default(each.value),
                )
                for each in self._fields(node)
            ]
            return assemble(parameters, parameter_texts(docstring), summary(docstring))
        made = self._method(node)
        if made is None or node.bases or node.keywords or node.decorator_list or made.decorator_list:
            return dict(ANY)
        texts = {**parameter_texts(ast.get_docstring(made)), **parameter_texts(docstring)}
        return assemble(self._parameters(made.args)[1:], texts, summary(docstring))

    def _keeps_signature(self, node: _Function) -> bool:
        decorators = (each.func if isinstance(each, ast.Call) else each for each in node.decorator_list)
        return all(self._module.name(each) in _KEEPS_SIGNATURE for each in decorators)

    def _parameters(self, arguments: ast.arguments) -> list[Parameter]:
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
        found = [
            self._parameter(each, default, place < len(arguments.posonlyargs))
            for place, (each, default) in enumerate(zip(positional, [*defaults, *arguments.defaults], strict=True))
        ]
        if arguments.vararg is not None:
            found.append(self._one(arguments.vararg, _ParameterKind.VAR_POSITIONAL))
        for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            found.append(self._one(each, _ParameterKind.KEYWORD_ONLY, default))
        if arguments.kwarg is not None:
            found.append(self._one(arguments.kwarg, _ParameterKind.VAR_KEYWORD))
        return found

    def _parameter(self, node: ast.arg, default: ast.expr | None, only: bool) -> Parameter:
        kind = _ParameterKind.POSITIONAL_ONLY if only else _ParameterKind.POSITIONAL_OR_KEYWORD
        return self._one(node, kind, default)

    def _one(self, node: ast.arg, kind: _ParameterKind, default: ast.expr | None = None) -> Parameter:
        hint = node.annotation
        unpacked = isinstance(hint, ast.Starred) or (
            isinstance(hint, ast.Subscript) and self._module.name(hint.value) == "typing.Unpack"
        )
        return Parameter(
            name=node.arg,
            kind=kind,
            schema={} if hint is None or unpacked else self.hint(hint),
            optional=default is not None,
            default=None if default is None else self._default(default),
        )

    def _default(self, node: ast.expr) -> tuple[object] | None:
        member = self._member(node)
        return forms.as_default(_value(node if member is None else member))

    def _once(self, node: ast.AST, read: Callable[[], Schema]) -> Schema:
        if node in self._open:
            return {}
        self._open.append(node)
        try:
            return read()
        finally:
            self._open.pop()


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a dataclass; `given`: the constructor takes it."""

    target: ast.Name
    annotation: ast.expr
    value: ast.expr | None
    by_factory: bool = False
    given: bool = True

    @classmethod
    def made(cls, target: ast.Name, node: ast.AnnAssign) -> _Field:
        """What `dataclasses.field(…)` makes."""
        said = {each.arg: each.value for each in node.value.keywords} if isinstance(node.value, ast.Call) else {}
        given = "init" not in said or _value(said["init"]) is not False
        return cls(target, node.annotation, said.get("default"), "default_factory" in said, given)

    @property
    def optional(self) -> bool:
        """Whether it has a default."""
        return self.value is not None or self.by_factory


class _Unknown:
    """Stands for a value that only running the code would give."""


def _value(node: ast.AST) -> object:
    try:
        return ast.literal_eval(node) if isinstance(node, ast.expr) else _Unknown()
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _Unknown()
