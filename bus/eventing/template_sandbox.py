"""Where input templates are shut in: what they may call, and how much of it.

A Jinja2 sandbox with the filters, tests and methods that are listed here, and a `Budget` of steps, values, characters
and time for each rendering. What is refused raises jinja2's `SecurityError`.
"""

from __future__ import annotations

import contextvars
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from headrace.bus.data.json_values import encode_json

MOST_OUTPUT_CHARACTERS: Final = 1_000_000
MOST_VALUES: Final = 200_000
MOST_STEPS: Final = 20_000
MOST_RENDER_S: Final = 0.2
MOST_DEPTH: Final = 32
"""How deep an input is nested; what a template gives may be four times as deep."""
MOST_RANGE: Final = 10_000
_MOST_INTEGER_BITS = 4096


class Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._deadline = time.thread_time() + MOST_RENDER_S
        self._steps = MOST_STEPS
        self._values = MOST_VALUES
        self._characters = MOST_OUTPUT_CHARACTERS

    def step(self) -> None:
        """Use one. Raises `SecurityError` when there is none left, or the time is over."""
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"more than {MOST_STEPS} steps")
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it takes longer than {MOST_RENDER_S:g} s of processor time")

    def value(self, characters: int = 0) -> None:
        """Use one, with so many characters. Raises `SecurityError` when there are not so many left."""
        self._values -= 1
        self._characters -= characters
        if self._values < 0:
            raise SecurityError(f"it gives more than {MOST_VALUES} values")
        if self._characters < 0:
            raise SecurityError(f"it gives more than {MOST_OUTPUT_CHARACTERS} characters")


current_budget: contextvars.ContextVar[Budget] = contextvars.ContextVar("current_budget")


def plain(value: Any, depth: int) -> Any:
    """The value as JSON can carry it. Undefined values raise as they are touched, `SecurityError` what it cannot."""
    if depth > MOST_DEPTH * 4:
        raise SecurityError("it gives a value that is nested too deep")
    budget = current_budget.get()
    if isinstance(value, jinja2.Undefined):
        raise SecurityError(str(value) or "it gives no value: an `if` has no `else`")
    if isinstance(value, str):
        budget.value(len(value))
        return str(value)
    budget.value()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_name(key): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, Iterable):
        return [plain(each, depth + 1) for each in value]
    raise SecurityError(f"it gives a {type(value).__name__}, which JSON cannot carry")


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise SecurityError(f"it gives an object with the key {key!r}; keys must be texts")
    current_budget.get().value(len(key))
    return key


class _Guarded(jinja2.visitor.NodeTransformer):
    """Puts the counting of steps into every loop, and the limit of sizes into every `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _STEPS, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), _JOINED, [], [], None, None, lineno=node.lineno)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TEXT_METHODS = _words(
    "upper lower strip lstrip rstrip split rsplit splitlines partition rpartition startswith endswith title capitalize"
    " swapcase find rfind count removeprefix removesuffix isdigit isalpha isalnum isupper islower isspace"
)
_DICT_METHODS = _words("items keys values get")
_LIST_METHODS = _words("index count")


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A key of the event's data comes before a method of the dict that holds it: `event.data.items` is data.
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in TEXT_METHODS
        if isinstance(obj, dict):
            return attr in _DICT_METHODS
        if isinstance(obj, list | tuple):
            return attr in _LIST_METHODS
        return isinstance(obj, jinja2.runtime.LoopContext) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        # The sandbox would let `format` through, which pads to any width: here it is a method like others.
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return _BINARY[operator](left, right)


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 64


def _sized(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _add(left: Any, right: Any) -> Any:
    if _sized(left) + _sized(right) > MOST_OUTPUT_CHARACTERS:
        raise SecurityError("a text or list grows too large")
    return left + right


def _multiply(left: Any, right: Any) -> Any:
    if not (_number(left) and _number(right)):
        raise SecurityError("only numbers can be multiplied")
    if _bits(left) + _bits(right) > _MOST_INTEGER_BITS:
        raise SecurityError("a number grows too large")
    return left * right


def _power(left: Any, right: Any) -> Any:
    if not (_number(left) and _number(right)):
        raise SecurityError("only numbers have powers")
    if abs(right) * _bits(left) > _MOST_INTEGER_BITS:
        raise SecurityError("a number grows too large")
    return left**right


def _remainder(left: Any, right: Any) -> Any:
    if not (_number(left) and _number(right)):
        raise SecurityError("only numbers have a remainder; put texts together with ~")
    return left % right


_BINARY: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": _add,
    "*": _multiply,
    "**": _power,
    "%": _remainder,
}


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MOST_RANGE:
        raise SecurityError(f"a range of more than {MOST_RANGE} numbers")
    return numbers


def _steps(values: Any) -> Iterator[Any]:
    for value in values:
        current_budget.get().step()
        yield value


def _text_of(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    current_budget.get().value(len(text))
    return text


def _join(values: Any, separator: str = "") -> str:
    return _text_of(separator).join(_text_of(value) + _nothing(separator) for value in values)


def _nothing(separator: str) -> str:
    current_budget.get().value(len(separator))
    return ""


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    if len(text) + text.count(old) * len(new) > MOST_OUTPUT_CHARACTERS:
        raise SecurityError("a text grows too large")
    return text.replace(old, new, count)


def _round(value: float, digits: int = 0, method: str = "common") -> float:
    if method != "common" or not -15 <= digits <= 15:
        raise SecurityError("round takes digits from -15 to 15 and no other method")
    return round(value, digits)


def _sum(values: Any) -> Any:
    total: Any = 0
    for value in values:
        total = operator.add(total, value + 0)
    return total


def _to_json(value: Any) -> str:
    return encode_json(plain(value, 0)).decode()


_STEPS = "_steps"
_JOINED = "_joined"
_FROM_JINJA = _words(
    "abs capitalize count d default dictsort first float int items last length list lower map max min reject rejectattr"
    " reverse select selectattr sort string title trim unique upper urlencode"
)
_TESTS = _words(
    "boolean defined divisibleby eq equalto even false float ge gt greaterthan in integer iterable le lessthan lower lt"
    " mapping ne none number odd sameas sequence string true undefined upper == != < <= > >="
)


def _guarded(function: Any) -> Callable[..., Any]:
    # `wraps` carries over the marks by which Jinja knows filters that want the context or the environment.
    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        current_budget.get().step()
        return function(*args, **kwargs)

    return counted


def _make_environment() -> _Sandbox:
    environment = _Sandbox(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True, cache_size=0)
    environment.filters.clear()
    environment.filters.update({name: _guarded(FILTERS[name]) for name in _FROM_JINJA})
    own = {"join": _join, "replace": _replace, "round": _round, "sum": _sum, "tojson": _to_json}
    environment.filters.update({name: _guarded(function) for name, function in own.items()})
    environment.filters[_STEPS] = _steps
    environment.filters[_JOINED] = _join
    environment.tests.clear()
    environment.tests.update({name: TESTS[name] for name in _TESTS})
    environment.globals.clear()
    environment.globals["range"] = _range
    return environment


environment: Final = _make_environment()
PUBLIC_FILTERS: Final = frozenset(name for name in environment.filters if not name.startswith("_"))


def compiled(tree: nodes.Template) -> jinja2.Template:
    """The template of a tree whose nodes are all allowed, with the counting of steps and sizes put in."""
    tree = _Guarded().visit(tree)
    tree.set_environment(environment)
    return environment.from_string(tree)
