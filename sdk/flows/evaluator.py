"""The evaluator behind expressions: simpleeval's, within bounds.

simpleeval's own bounds leave gaps: a format, `%` on a text, `replace`, `join`, comprehensions in comprehensions can
each make gigabytes. Here everything that makes something is counted.
"""

from __future__ import annotations

import ast
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from simpleeval import DEFAULT_FUNCTIONS, DEFAULT_OPERATORS, EvalWithCompoundTypes

from headrace.sdk.flows.errors import ExpressionFailed, PathMissing
from headrace.sdk.flows.paths import Path

MOST_STEPS: Final = 200_000
"""How many parts may be evaluated, those of a comprehension each time."""
MOST_MADE: Final = 2_000_000
"""How many characters and elements an evaluation may make, all together."""

_TEXT_METHODS: Final = frozenset(
    {"capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"}
    | {"isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition"}
    | {"removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"}
    | {"splitlines", "startswith", "strip", "swapcase", "title", "upper"}
)
_LIST_METHODS: Final = frozenset({"count", "index"})
OBJECT_METHODS: Final = frozenset({"get", "items", "keys", "values"})
METHODS: Final = _TEXT_METHODS | _LIST_METHODS | OBJECT_METHODS

_FORMAT: Final = re.compile(r"[<>^=]?[+ -]?#?0?\d{0,3}[,_]?(?:\.\d{1,2})?[bcdeEfFgGnosxX%]?")
_WIDEST_NUMBER: Final = 20_000
"""How many bits a whole number may get by a power, a product or a shift."""


class Evaluator(EvalWithCompoundTypes):  # type: ignore[misc] # simpleeval has no types
    """simpleeval's evaluator under our rules: for one evaluation, of a tree that was checked."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._steps = 0
        self._made = 0
        operators = {
            **DEFAULT_OPERATORS,
            ast.Add: self._add,
            ast.Mult: self._multiply,
            ast.Pow: self._power,
            ast.LShift: self._shift,
            ast.Mod: self._remainder,
        }
        super().__init__(operators=operators, functions={}, names=names)
        self.functions: dict[str, Callable[..., Any]] = {
            **DEFAULT_FUNCTIONS,
            "dict": dict,
            "list": lambda *args: self._counted(list(*args)),
            "tuple": lambda *args: self._counted(tuple(*args)),
            "str": lambda value="": self._counted(str(as_json(value))),
            "pathsplit": pathsplit,
            "is_present": functools.partial(_is_present, names),
            "getattr": functools.partial(_value_or, names),
        }

    def _eval(self, node: ast.AST) -> Any:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise ExpressionFailed(f"it takes more than {MOST_STEPS} steps")
        return super()._eval(node)

    def _check_disallowed_items(self, item: Any) -> None:
        # The state is JSON and the functions are ours: there is nothing to look for, each time through all of it.
        pass

    def _eval_attribute(self, node: ast.Attribute) -> Any:
        value = self._eval(node.value)
        if isinstance(value, dict) and node.attr in value:
            return value[node.attr]
        for kind, methods in ((str, _TEXT_METHODS), ((list, tuple), _LIST_METHODS), (dict, OBJECT_METHODS)):
            if isinstance(value, kind) and node.attr in methods:
                return self._method(value, node.attr)
        raise ExpressionFailed(f"there is no {node.attr!r}")

    def _method(self, value: Any, name: str) -> Callable[..., Any]:
        method = getattr(value, name)

        def bounded(*args: Any, **kwargs: Any) -> Any:
            if name == "replace" and len(args) >= 2:
                self._will_make(len(value) + value.count(args[0]) * len(args[1]))
            elif name == "join" and args and isinstance(args[0], list | tuple):
                self._will_make(sum(len(str(each)) for each in args[0]) + len(value) * len(args[0]))
            result = method(*args, **kwargs)
            if name in ("items", "keys", "values"):
                return [list(each) if isinstance(each, tuple) else each for each in result]
            return self._counted(result)

        return bounded

    def _eval_formattedvalue(self, node: ast.FormattedValue) -> Any:
        value = as_json(self._eval(node.value))
        form = self._eval(node.format_spec) if node.format_spec else ""
        if not _FORMAT.fullmatch(form):
            raise ExpressionFailed(f"{form!r:.40} is no format that is taken here")
        return format(value, form) if form else value

    def _add(self, left: Any, right: Any) -> Any:
        if hasattr(left, "__len__") and hasattr(right, "__len__"):
            self._will_make(len(left) + len(right))
        return left + right

    def _multiply(self, left: Any, right: Any) -> Any:
        for one, other in ((left, right), (right, left)):
            if hasattr(one, "__len__") and isinstance(other, int):
                self._will_make(len(one) * max(other, 0))
        if isinstance(left, int) and isinstance(right, int):
            _check_width(left.bit_length() + right.bit_length())
        return left * right

    def _power(self, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int) and right > 0:
            _check_width(left.bit_length() * right)
        return left**right

    def _shift(self, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            _check_width(left.bit_length() + right)
        return left << right

    def _remainder(self, left: Any, right: Any) -> Any:
        if isinstance(left, str):
            raise ExpressionFailed("texts are put together with + or f'{...}' here, not with %")
        return left % right

    def _counted(self, value: Any) -> Any:
        if hasattr(value, "__len__"):
            self._will_make(len(value))
        return value

    def _will_make(self, size: int) -> None:
        self._made += size
        if self._made > MOST_MADE:
            raise ExpressionFailed(f"it makes more than {MOST_MADE} characters and elements")


def as_json(value: Any) -> Any:
    """A value as JSON has it: tuples are lists. Raises `ExpressionFailed` for what JSON does not have."""
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ExpressionFailed(f"the key {key!r:.40} is no text, as JSON wants it")
        return {key: as_json(each) for key, each in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionFailed(f"JSON has no number {value}")
        return value
    raise ExpressionFailed(f"its value is a {type(value).__name__}, which JSON does not have")


def _check_width(bits: int) -> None:
    if bits > _WIDEST_NUMBER:
        raise ExpressionFailed("a number in it gets too large")


def pathsplit(path: str) -> list[str]:
    """The part before the last name of a path, and that name; `/~/` is never split."""
    if not isinstance(path, str):
        raise ExpressionFailed(f"pathsplit takes a text, not {path!r:.40}")
    trimmed = path.rstrip("/") if path not in ("/", "/~/") else path
    if trimmed in ("/", "/~", "/~/", "~", ""):
        return [path, ""]
    head, slash, tail = trimmed.rpartition("/")
    head = "/~/" if head == "/~" else head or slash
    return [head, tail]


def _found(names: Mapping[str, Any], text: Any) -> Any:
    if not isinstance(text, str):
        raise ExpressionFailed(f"the name of a value is a text, such as 'a.b', not {text!r:.40}")
    return Path.parse(text if text.startswith("$") else f"$.{text}").find(dict(names))


def _is_present(names: Mapping[str, Any], text: Any) -> bool:
    try:
        _found(names, text)
    except PathMissing:
        return False
    return True


def _value_or(names: Mapping[str, Any], text: Any, default: Any = None) -> Any:
    try:
        return _found(names, text)
    except PathMissing:
        return default
