"""Functions as data: how a callable is stored, and how a worker gets it back.

A function is stored twice. *By cloudpickle*, which keeps closures, lambdas and what was defined in a notebook, but only
reads on the Python minor version that wrote it; and *by source*, which people can read and any version can run.
Functions of installed packages (`math.sqrt`) are stored by their name, which reads everywhere.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import msgspec

from headrace.bus.data.encodings import CLOUDPICKLE
from headrace.bus.data.values import decode, encode
from headrace.bus.errors import DecodeError, FunctionUnusable

_COMMANDS: Final = ("headrace.bus.shell", "headrace.bus.mpi")
"""Where the kinds of commands are defined; a worker loads them with the first command."""


class FunctionCode(msgspec.Struct, array_like=True, frozen=True):
    """A function as data. `source` or `pickled` may be empty, not both; `entry_point` is the name in `source`."""

    name: str
    source: str = ""
    pickled: bytes = b""
    entry_point: str = ""
    python_version: str = ""
    kind: str = "python"
    modules: bytes = b""
    """Modules that it imports (`headrace.bus.functions.modules`)."""
    requirements: list[str] = []
    """Packages that it needs (`headrace.bus.functions.requirements`)."""
    requires_python: str = ""
    owner: str = ""
    """Whose it is, where the service has said so: a pool's allow list may ask."""


def python_version() -> str:
    """The running Python's version, `3.11.7`."""
    return ".".join(map(str, sys.version_info[:3]))


def from_function(function: Callable[..., Any]) -> FunctionCode:
    """Store a callable: a function, lambda, class, partial, bound method or callable object.

    Code of the user's own modules goes along by value, so a worker need not have them; installed packages go by name.
    Raises `FunctionUnusable` when neither its source nor a pickle can be had.
    """
    from headrace.bus.functions.source import is_generator_function, source_of

    if not callable(function):
        raise FunctionUnusable(f"a {type(function).__name__} was given in the place of a function; it cannot be called")
    if is_generator_function(function):
        raise FunctionUnusable(_yields(_display_name(function)))
    if type(function).__module__ in _COMMANDS:
        return _from_command(function)
    source, entry_point = source_of(function)
    name = _display_name(function)
    try:
        pickled = encode(function)[1]
    except Exception as error:
        if not source:
            raise FunctionUnusable(_unstorable(name, error)) from error
        pickled = b""
    return FunctionCode(
        name=name, source=source, pickled=pickled, entry_point=entry_point, python_version=python_version()
    )


def from_source(source: str, function_name: str | None = None) -> FunctionCode:
    """Store the text of a module that defines a function; without a name it must define exactly one.

    The text is compiled, never run, here. Raises `FunctionUnusable`, with the position of a syntax error, or with the
    names that the text does define.
    """
    import ast

    from headrace.bus.functions.source import defined_names, generator_names

    try:
        tree = ast.parse(source)
        compile(tree, "<source>", "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f": {error.text.strip()!r}" if error.text else ""
        raise FunctionUnusable(
            f"the source does not compile: {error.msg} at line {error.lineno}, column {error.offset}{line}"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise FunctionUnusable(f"the source does not compile: {error}") from error
    names = defined_names(tree)
    functions = [name for name, is_function in names.items() if is_function]
    if function_name is None and len(functions) == 1:
        function_name = functions[0]
    if function_name is None or function_name not in names:
        raise FunctionUnusable(_not_defined(function_name, functions))
    if function_name in generator_names(tree):
        raise FunctionUnusable(_yields(function_name))
    return FunctionCode(name=function_name, source=source, entry_point=function_name, python_version=python_version())


def load(code: FunctionCode) -> Callable[..., Any]:
    """The callable again, from its pickle when this Python can read it, else from its source.

    Raises `FunctionUnusable`, which says what was tried and what to do.
    """
    problems = []
    if code.pickled and _reads_here(code):
        try:
            return _called(decode(CLOUDPICKLE, code.pickled))
        except (DecodeError, FunctionUnusable) as error:
            problems.append(str(error))
    if code.source and code.entry_point:
        try:
            return _run_source(code)
        except FunctionUnusable as error:
            problems.append(str(error))
    if not problems:
        raise FunctionUnusable(_other_version(code) if code.pickled else f"function {code.name!r} has no code")
    raise FunctionUnusable(f"function {code.name!r} cannot be loaded on this worker: " + "; and ".join(problems))


def show_lines(code: FunctionCode, function: Callable[..., Any]) -> None:
    """Let tracebacks through `function`, which was loaded from `code`, show its source lines."""
    from headrace.bus.functions.source import register_function_lines

    register_function_lines(code.source, code.entry_point, function)


def _from_command(function: Any) -> FunctionCode:
    source, entry_point = function.source()
    return FunctionCode(name=function.__name__, source=source, entry_point=entry_point, python_version=python_version())


def _display_name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _display_name(function.func)
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _unstorable(name: str, error: Exception) -> str:
    return (
        f"{name!r} cannot be sent to a worker: its source was not found, and pickling it failed: "
        f"{type(error).__name__}: {error}. Define it with `def`, open connections, files and locks inside it, "
        "or use register_source_code"
    )


def _yields(name: str) -> str:
    return (
        f"{name!r} is a generator function: what it yields would stay on the worker. Return all of it, as a list; or "
        "publish events as it goes on"
    )


def _not_defined(function_name: str | None, functions: list[str]) -> str:
    defined = f"it defines {', '.join(functions)}" if functions else "it defines no function"
    if function_name is None and functions:
        return f"say which function of the source is meant (function_name=..., or --name): {defined}"
    if function_name is None:
        return "the source defines no function: it needs one on its outermost level"
    return f"the source does not define {function_name!r}: {defined}"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _reads_here(code: FunctionCode) -> bool:
    # Bytecode belongs to one minor version. A pickle without cloudpickle's constructors has none: only names of
    # installed code.
    return _minor(code.python_version) == _minor(python_version()) or b"cloudpickle" not in code.pickled


def _other_version(code: FunctionCode) -> str:
    return (
        f"function {code.name!r} was registered by Python {_minor(code.python_version)} without source that could be "
        f"run elsewhere, and this worker runs Python {_minor(python_version())}, which cannot read the other's code: "
        f"register it from Python {_minor(python_version())}, or by register_source_code, or with "
        f"python='{_minor(code.python_version)}', or use an endpoint that runs Python {_minor(code.python_version)}"
    )


def _called(loaded: Any) -> Callable[..., Any]:
    if not callable(loaded):
        raise FunctionUnusable(f"its pickle holds a {type(loaded).__name__}, which cannot be called")
    return loaded  # type: ignore[no-any-return]  # callable() does not narrow Any


def _run_source(code: FunctionCode) -> Callable[..., Any]:
    """Run the module text in a module of its own and take the function from it. Raises `FunctionUnusable`."""
    from headrace.bus.functions.source import register_lines

    digest = _digest(code.source)
    module = ModuleType(f"headrace_function_{digest}")
    filename = module.__file__ = f"<headrace {code.entry_point} {digest}>"
    register_lines(filename, code.source)
    # Dataclasses, type hints and pickle look a module up by its name.
    sys.modules[module.__name__] = module
    try:
        exec(compile(code.source, filename, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - by design
        return _called(module.__dict__[code.entry_point])
    except KeyError:
        problem = f"its source does not define {code.entry_point!r}"
    except (Exception, SystemExit) as error:
        problem = f"running its source failed: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            problem += f"; install the package that provides {error.name!r} on the endpoint"
    del sys.modules[module.__name__]
    raise FunctionUnusable(problem)


def _digest(source: str) -> str:
    import hashlib

    return hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
