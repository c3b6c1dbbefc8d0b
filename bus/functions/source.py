"""The source of a function, as a module that stands alone.

`inspect.getsource` gives the text of a function, which rarely runs by itself: it lacks the imports, constants and
helpers around it. What can be written down of these is put before it, so that a worker with another Python version, for
which a pickled function is unreadable, can still run the function from its source.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import math
import os
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from headrace.bus.functions.installed import is_installed

LAMBDA_NAME: Final = "function"

_CO_FUTURE_ANNOTATIONS = 0x1000000
_MOST_CONSTANT_TEXT = 2_000


def source_of(function: Callable[..., Any]) -> tuple[str, str]:
    """(source, name in that source) of a function or class; ("", "") when it cannot be found or has no name there."""
    try:
        target = inspect.unwrap(function) if isinstance(function, FunctionType) else function
        if not isinstance(target, FunctionType | type):
            return "", ""
        text = textwrap.dedent(inspect.getsource(target))
        if isinstance(target, FunctionType) and target.__name__ == "<lambda>":
            text = _lambda_source(text, target)
            name = LAMBDA_NAME
        else:
            name = target.__name__
        tree = ast.parse(text)
        if name not in defined_names(tree):
            return "", ""
        surroundings = _surroundings(target, tree, {name}) if isinstance(target, FunctionType) else []
    except Exception:  # the source is one of two ways to store a function, and objects in its scope may be very odd
        return "", ""
    return "".join([*surroundings, "\n\n" if surroundings else "", text]), name


def defined_names(tree: ast.Module) -> dict[str, bool]:
    """The names that a module's own statements define, and whether each is a function or class for sure."""
    names: dict[str, bool] = {}
    for node in _own_statements(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] = True
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update({(alias.asname or alias.name.partition(".")[0]): False for alias in node.names})
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = (n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
            names.update({n.id: False for n in stored})
    return names


def generator_names(tree: ast.Module) -> set[str]:
    """The names of the functions among a module's own statements that yield."""
    functions = [node for node in _own_statements(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        function.name
        for function in functions
        if not function.decorator_list and any(isinstance(n, ast.Yield | ast.YieldFrom) for n in _own_parts(function))
    }


def is_generator_function(function: Any) -> bool:
    """Whether calling it gives a generator, for sure: decorators may make something else of what yields."""
    while isinstance(function, functools.partial):
        function = function.func
    call = function if inspect.isroutine(function) or isinstance(function, type) else type(function).__call__
    return inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)


def _own_parts(function: ast.AST) -> Iterator[ast.AST]:
    # Without the functions and classes inside, whose `yield` is theirs.
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield child
            yield from _own_parts(child)


def _own_statements(node: ast.AST) -> Iterator[ast.AST]:
    # Below `if`, `try`, `with` and loops too, but not inside functions and classes, whose names are their own.
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            yield from _own_statements(child)


def _lambda_source(statement: str, function: FunctionType) -> str:
    """`function = lambda …`, when the statement holds exactly one lambda that fits. Raises `SyntaxError`."""
    names = function.__code__.co_varnames
    found = []
    for node in ast.walk(ast.parse(statement)):
        if isinstance(node, ast.Lambda):
            arguments = node.args
            own = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            if own == list(names[: len(own)]):
                found.append(node)
    if len(found) != 1:
        raise SyntaxError("no lambda, or several, on that line")
    return f"{LAMBDA_NAME} = {ast.unparse(found[0])}\n"


def _surroundings(function: FunctionType, tree: ast.Module, written: set[str]) -> list[str]:
    """Statements that give the function the names it uses: imports, plain constants, helpers of the same module."""
    lines, helpers = [], []
    if function.__code__.co_flags & _CO_FUTURE_ANNOTATIONS:
        lines.append("from __future__ import annotations\n")
    scope = _scope(function)
    for name in sorted({n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & scope.keys() - written):
        written.add(name)
        statement = _statement(name, scope[name])
        if statement:
            lines.append(statement)
        elif isinstance(scope[name], FunctionType) and not is_installed(scope[name].__module__ or ""):
            helpers += _helper(name, scope[name], written)
    return _future_first(lines + helpers)


def _future_first(statements: list[str]) -> list[str]:
    future = [s for s in statements if s.startswith("from __future__")]
    return [*future[:1], *(s for s in statements if not s.startswith("from __future__"))]


def _scope(function: FunctionType) -> dict[str, Any]:
    scope = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            scope[name] = cell.cell_contents
        except ValueError:  # not filled yet: a function that refers to itself
            scope.pop(name, None)
    return scope


def _statement(name: str, value: Any) -> str:
    if isinstance(value, ModuleType):
        return f"import {value.__name__}\n" if value.__name__ == name else f"import {value.__name__} as {name}\n"
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(qualname, str) and qualname.isidentifier() and is_installed(module):
        return f"from {module} import {qualname}" + (f" as {name}\n" if qualname != name else "\n")
    if _is_constant(value) and len(text := repr(value)) <= _MOST_CONSTANT_TEXT:
        return f"{name} = {text}\n"
    return ""


def _is_constant(value: Any) -> bool:
    if type(value) in (tuple, list, set) and value:
        return all(map(_is_constant, value))
    if type(value) is dict:
        return all(map(_is_constant, (*value.keys(), *value.values())))
    return type(value) in (type(None), bool, int, str, bytes) or (type(value) is float and math.isfinite(value))


def _helper(name: str, function: FunctionType, written: set[str]) -> list[str]:
    try:
        text = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(text)
    except (OSError, TypeError, SyntaxError, ValueError):
        return []
    if name not in defined_names(tree):
        return []
    return [*_surroundings(function, tree, written), f"\n\n{text}"]


# Lines for tracebacks


def register_lines(filename: str, text: str, first_line: int = 1) -> None:
    """Make tracebacks show `text` as the lines of `filename` from `first_line` on; other lines stay as they are."""
    entry = linecache.cache.get(filename)
    lines = list(entry[2]) if entry is not None and len(entry) == 4 else []
    new = text.splitlines(keepends=True)
    lines += ["\n"] * (first_line - 1 + len(new) - len(lines))
    lines[first_line - 1 : first_line - 1 + len(new)] = new
    # Without a time of modification the entry stays until it is replaced.
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)


def register_function_lines(source: str, name: str, function: Callable[..., Any]) -> None:
    """Make tracebacks show the source of a function that came pickled and whose file is not on this machine."""
    code: CodeType | None = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not source or os.path.exists(code.co_filename):
        return
    try:
        nodes = [node for node in ast.parse(source).body if getattr(node, "name", None) == name]
    except (SyntaxError, ValueError, RecursionError):
        return
    if nodes:
        start = min([nodes[-1].lineno, *(d.lineno for d in getattr(nodes[-1], "decorator_list", ()))])
        text = "".join(source.splitlines(keepends=True)[start - 1 :])
        register_lines(code.co_filename, text, code.co_firstlineno)
