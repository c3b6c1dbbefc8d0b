"""Expressions (`"name.=": "a + 1"`), by simpleeval, which is what the Flows service uses.

What an expression may do is a list of what is allowed, made here, and checked before anything is evaluated: kinds of
nodes, functions, methods of texts, lists and objects. An attribute is a key of an object, or one of those methods, and
never an attribute of a Python object. Time and memory have bounds: a flow that somebody sent must not take the machine
down.
"""

from __future__ import annotations

import ast
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from headrace.sdk.flows.errors import ExpressionFailed, ExpressionInvalid, PathInvalid, PathMissing
from headrace.sdk.flows.paths import Path
from headrace.sdk.flows.problems import did_you_mean

MOST_CHARACTERS: Final = 10_000
"""How long an expression may be."""
MOST_STEPS: Final = 200_000
"""How many parts may be evaluated, those of a comprehension each time."""
MOST_MADE: Final = 2_000_000
"""How many characters and elements an evaluation may make, all together."""

FUNCTIONS: Final = (
    *("str", "int", "float", "list", "tuple", "dict", "rand", "randint"),
    *("pathsplit", "is_present", "getattr"),
)

_TEXT_METHODS: Final = frozenset(
    {"capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"}
    | {"isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition"}
    | {"removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"}
    | {"splitlines", "startswith", "strip", "swapcase", "title", "upper"}
)
_LIST_METHODS: Final = frozenset({"count", "index"})
_OBJECT_METHODS: Final = frozenset({"get", "items", "keys", "values"})
_METHODS: Final = _TEXT_METHODS | _LIST_METHODS | _OBJECT_METHODS

_NODES: Final = (
    *(ast.Constant, ast.Name, ast.Load, ast.Store, ast.Attribute, ast.Subscript, ast.Slice, ast.Call, ast.keyword),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.JoinedStr, ast.FormattedValue, ast.operator),
    *(ast.unaryop, ast.boolop, ast.cmpop, ast.List, ast.Tuple, ast.Dict, ast.Starred),
    *(ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.comprehension),
)
_IN_WORDS: Final = {
    ast.Lambda: "a lambda",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.NamedExpr: "an assignment",
    ast.Set: "a set, which JSON cannot carry",
    ast.SetComp: "a set, which JSON cannot carry",
}
_FORMAT: Final = re.compile(r"[<>^=]?[+ -]?#?0?\d{0,3}[,_]?(?:\.\d{1,2})?[bcdeEfFgGnosxX%]?")
_BACKTICKS: Final = re.compile(r"`\$\.([^`]*)`")
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_WIDEST_NUMBER: Final = 20_000
"""How many bits a whole number may get by a power, a product or a shift."""


def problem_of(text: str) -> str | None:
    """What is wrong with an expression, whatever its names will be; None when nothing is."""
    try:
        _parsed(text)
    except ExpressionInvalid as error:
        return str(error)
    return None


def doubts_about(text: str) -> Iterator[str]:
    """What the Flows service may take otherwise than it seems. The expression must be one without problems."""
    node = _parsed(text)
    called = {id(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and each.attr in _OBJECT_METHODS and id(each) not in called:
            yield (
                f"'.{each.attr}' is also the name of a method, which the Flows service takes it for;"
                f" write ['{each.attr}'] for the key"
            )


def names_in(text: str) -> set[str]:
    """The names of the state that an expression cannot do without; none when it cannot be read."""
    try:
        node = _parsed(text)
    except ExpressionInvalid:
        return set()
    made = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    called = {id(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
    used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and id(each) not in called}
    # `x if is_present('x') else 10` can.
    asked = {
        str(argument.value).partition(".")[0].partition("[")[0]
        for each in ast.walk(node)
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id in ("is_present", "getattr")
        for argument in each.args[:1]
        if isinstance(argument, ast.Constant)
    }
    return used - made - asked


def evaluate(text: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression, as JSON has it. Raises `ExpressionInvalid` and `ExpressionFailed`."""
    from simpleeval import InvalidExpression

    node = _parsed(text)
    try:
        return _as_json(_evaluator(names).eval(text, previously_parsed=node))
    except ExpressionFailed as error:
        raise ExpressionFailed(f"{text!r:.200}: {error}") from error
    except RecursionError:
        raise ExpressionFailed(f"{text!r:.200}: it is nested too deeply") from None
    except (InvalidExpression, PathInvalid, *_PYTHONS_OWN) as error:
        raise ExpressionFailed(f"{text!r:.200}: {_said(error)}") from error


_PYTHONS_OWN: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r}"
    name = getattr(error, "name", None) or getattr(error, "attr", None)
    return f"there is no {name!r}" if isinstance(name, str) else str(error) or type(error).__name__


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> ast.expr:
    """The expression as a tree of allowed parts. Raises `ExpressionInvalid`."""
    if len(text) > MOST_CHARACTERS:
        raise ExpressionInvalid(f"an expression has at most {MOST_CHARACTERS} characters; this one has {len(text)}")
    # An older way to write a name of the state; and lines that JSON's own `\n` has broken within a text.
    plain = _QUOTED.sub(lambda quoted: quoted[0].replace("\n", "\\n"), _BACKTICKS.sub(r"\1", text).strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the author's escapes, which are told nobody here
            node = ast.parse(plain, mode="eval").body
    except SyntaxError as error:
        raise ExpressionInvalid(f"{plain!r:.200}, character {error.offset or 1}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionInvalid(f"{plain!r:.200} cannot be read: it is nested too deeply, or no text") from None
    for part in ast.walk(node):
        _check(part, plain)
    return node


def _check(part: ast.AST, text: str) -> None:
    problem = None
    if not isinstance(part, _NODES):
        kind = _IN_WORDS.get(type(part), type(part).__name__)
        problem = f"an expression cannot have {kind}"
    elif isinstance(part, ast.Attribute) and part.attr.startswith("_"):
        problem = f"'.{part.attr}' cannot be reached: names after a dot do not begin with '_'"
    elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id not in FUNCTIONS:
        known = ", ".join(FUNCTIONS)
        problem = f"there is no function {part.func.id!r}{did_you_mean(part.func.id, FUNCTIONS)} (there are: {known})"
    elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr not in _METHODS:
        problem = f"there is no method {part.func.attr!r}{did_you_mean(part.func.attr, _METHODS)}"
    elif isinstance(part, ast.Call) and not isinstance(part.func, ast.Name | ast.Attribute):
        problem = "only functions and methods can be called"
    elif isinstance(part, ast.Constant) and not isinstance(part.value, str | int | float | bool | None):
        problem = f"{part.value!r:.40} is nothing that JSON has"
    elif isinstance(part, ast.Name) and part.id in ("true", "false", "null"):
        python = {"true": "True", "false": "False", "null": "None"}[part.id]
        problem = f"{part.id!r} is written {python} in an expression"
    if problem is not None:
        raise ExpressionInvalid(f"{text!r:.200}: {problem}")


def _as_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ExpressionFailed(f"the key {key!r:.40} is no text, as JSON wants it")
        return {key: _as_json(each) for key, each in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionFailed(f"JSON has no number {value}")
        return value
    raise ExpressionFailed(f"its value is a {type(value).__name__}, which JSON does not have")


def _evaluator(names: Mapping[str, Any]) -> Any:
    return _evaluator_class()(names)


@functools.cache
def _evaluator_class() -> Any:
    """simpleeval's evaluator under our rules. Made when it is first needed: most flows have no expression."""
    from simpleeval import DEFAULT_FUNCTIONS, DEFAULT_OPERATORS, EvalWithCompoundTypes

    class Evaluator(EvalWithCompoundTypes):  # type: ignore[misc] # simpleeval has no types
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
                "str": lambda value="": self._counted(str(_as_json(value))),
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
            for kind, methods in ((str, _TEXT_METHODS), ((list, tuple), _LIST_METHODS), (dict, _OBJECT_METHODS)):
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
            value = _as_json(self._eval(node.value))
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

    return Evaluator


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
