"""Expressions (`"name.=": "a + 1"`), by simpleeval, which is what the Flows service uses.

What an expression may do is a list of what is allowed, made here, and checked before anything is evaluated: kinds of
nodes, functions, methods of texts, lists and objects. An attribute is a key of an object, or one of those methods, and
never an attribute of a Python object. Time and memory have bounds: a flow that somebody sent must not take the machine
down.
"""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

from simpleeval import InvalidExpression

from headrace.sdk.flows.errors import ExpressionFailed, ExpressionInvalid, PathInvalid
from headrace.sdk.flows.evaluator import METHODS, OBJECT_METHODS, Evaluator, as_json
from headrace.sdk.flows.problems import did_you_mean

MOST_CHARACTERS: Final = 10_000
"""How long an expression may be."""
FUNCTIONS: Final = (
    *("str", "int", "float", "list", "tuple", "dict", "rand", "randint"),
    *("pathsplit", "is_present", "getattr"),
)

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
_BACKTICKS: Final = re.compile(r"`\$\.([^`]*)`")
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


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
        if isinstance(each, ast.Attribute) and each.attr in OBJECT_METHODS and id(each) not in called:
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
    node = _parsed(text)
    try:
        return as_json(Evaluator(names).eval(text, previously_parsed=node))
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
    elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr not in METHODS:
        problem = f"there is no method {part.func.attr!r}{did_you_mean(part.func.attr, METHODS)}"
    elif isinstance(part, ast.Call) and not isinstance(part.func, ast.Name | ast.Attribute):
        problem = "only functions and methods can be called"
    elif isinstance(part, ast.Constant) and not isinstance(part.value, str | int | float | bool | None):
        problem = f"{part.value!r:.40} is nothing that JSON has"
    elif isinstance(part, ast.Name) and part.id in ("true", "false", "null"):
        python = {"true": "True", "false": "False", "null": "None"}[part.id]
        problem = f"{part.id!r} is written {python} in an expression"
    if problem is not None:
        raise ExpressionInvalid(f"{text!r:.200}: {problem}")
