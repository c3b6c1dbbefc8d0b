"""Input templates: the arguments of a delivery's call, rendered from its event.

A subscription's `input` is `{"args": [...], "kwargs": {...}}`, whose texts, however deep, are Jinja2 templates over
`event` (the whole event, as JSON has it). A text that is exactly one expression, `"{{ event.data.max }}"`, gives the
value itself, with its type; any other text gives text. Without `input` the call has the event as its one argument.

Templates come from users and run inside the dispatcher, so they are shut in: no statements but `if` and `for`, only
the filters listed here, no methods but harmless ones of text and dicts, no numbers and texts that grow beyond a size,
a number of steps and a time for each rendering. What is missing in the event is an error, not an empty text.
"""

from __future__ import annotations

import contextvars
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from headrace.bus.errors import FilterInvalid, InputFailed
from headrace.bus.events import CloudEvent
from headrace.bus.json_values import encode_json

MOST_INPUT_BYTES: Final = 65_536
MOST_TEMPLATE_CHARACTERS: Final = 16_384
MOST_OUTPUT_CHARACTERS: Final = 1_000_000
MOST_VALUES: Final = 200_000
MOST_STEPS: Final = 20_000
MOST_RENDER_S: Final = 0.2
MOST_DEPTH: Final = 32
MOST_RANGE: Final = 10_000
_MOST_INTEGER_BITS = 4096


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one call."""

    args: list[Any]
    kwargs: dict[str, Any]


Render = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class InputTemplate:
    """A compiled `input`."""

    document: Any
    _args: Render
    _kwargs: Render

    def render(self, event: CloudEvent) -> Arguments:
        """The arguments for this event. Raises `InputFailed` with a pointer to the text that failed."""
        values = {"event": dict(event.document)}
        token = _budget.set(_Budget())
        try:
            return Arguments(self._args(values), self._kwargs(values))
        finally:
            _budget.reset(token)


def compile_input(document: Any) -> InputTemplate:
    """Compile an `input`; None is the default. Raises `FilterInvalid` with a JSON pointer and the line."""
    if document is None:
        return InputTemplate(None, lambda values: [values["event"]], lambda _values: {})
    if not isinstance(document, dict) or not document.keys() <= {"args", "kwargs"}:
        raise FilterInvalid("an input is an object with `args` (a list), `kwargs` (an object) or both")
    if len(encode_json(document)) > MOST_INPUT_BYTES:
        raise FilterInvalid(f"an input has at most {MOST_INPUT_BYTES} bytes")
    args, kwargs = document.get("args", []), document.get("kwargs", {})
    if not isinstance(args, list):
        raise FilterInvalid("args must be a list", pointer="/args")
    if not isinstance(kwargs, dict):
        raise FilterInvalid("kwargs must be an object", pointer="/kwargs")
    return InputTemplate(document, _compile(args, "/args", 0), _compile(kwargs, "/kwargs", 0))


# --- compiling ------------------------------------------------------------------------------------------------------


def _compile(value: Any, pointer: str, depth: int) -> Render:
    if depth > MOST_DEPTH:
        raise FilterInvalid(f"an input is nested at most {MOST_DEPTH} deep", pointer=pointer)
    if isinstance(value, str):
        return _compile_text(value, pointer)
    if isinstance(value, list):
        items = [_compile(each, f"{pointer}/{place}", depth + 1) for place, each in enumerate(value)]
        return lambda values: [item(values) for item in items]
    if isinstance(value, dict):
        pairs = [(name, _compile(each, f"{pointer}/{_step(name)}", depth + 1)) for name, each in value.items()]
        return lambda values: {name: item(values) for name, item in pairs}
    return lambda _values: value


def _compile_text(text: str, pointer: str) -> Render:
    if len(text) > MOST_TEMPLATE_CHARACTERS:
        raise FilterInvalid(f"a template has at most {MOST_TEMPLATE_CHARACTERS} characters", pointer=pointer)
    if "{" not in text:
        return lambda _values: text
    try:
        tree = _environment.parse(text)
        _check(tree, pointer)
        expression = _only_expression(tree)
        if expression is None:
            return functools.partial(_render_text, _template(tree), pointer)
        # An assignment keeps what the expression gives, where output would make it text.
        body = [nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)]
        return functools.partial(_render_value, _template(nodes.Template(body, lineno=1)), pointer)
    except jinja2.TemplateSyntaxError as error:
        raise FilterInvalid(f"template, line {error.lineno}: {error.message}", pointer=pointer) from error
    except RecursionError as error:
        raise FilterInvalid("the template is nested too deep", pointer=pointer) from error


def _template(tree: nodes.Template) -> jinja2.Template:
    tree = _Guarded().visit(tree)
    tree.set_environment(_environment)
    return _environment.from_string(tree)


def _only_expression(tree: nodes.Template) -> nodes.Expr | None:
    if len(tree.body) == 1 and isinstance(tree.body[0], nodes.Output):
        parts = tree.body[0].nodes
        if len(parts) == 1 and not isinstance(parts[0], nodes.TemplateData):
            return parts[0]
    return None


_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Name, nodes.Const, nodes.Tuple,
    nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call,
    nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand, nodes.BinExpr,
    nodes.UnaryExpr,
)  # fmt: skip


def _check(tree: nodes.Template, pointer: str) -> None:
    waiting: list[nodes.Node] = [tree]
    while waiting:
        node = waiting.pop()
        problem = _problem(node)
        if problem:
            raise FilterInvalid(f"template, line {node.lineno}: {problem}", pointer=pointer)
        waiting.extend(node.iter_child_nodes())


def _problem(node: nodes.Node) -> str | None:
    if not isinstance(node, _ALLOWED):
        return f"`{type(node).__name__.lower()}` is not allowed here; of statements only `if` and `for` are"
    if isinstance(node, nodes.For) and node.recursive:
        return "a recursive loop is not allowed here"
    if isinstance(node, nodes.Filter) and node.name not in _PUBLIC_FILTERS:
        return f"unknown filter {node.name!r}; known: {', '.join(sorted(_PUBLIC_FILTERS))}"
    if isinstance(node, nodes.Test) and node.name not in _environment.tests:
        return f"unknown test {node.name!r}; known: {', '.join(sorted(_environment.tests))}"
    if isinstance(node, nodes.Call) and (node.dyn_args or node.dyn_kwargs):
        return "a call with * or ** is not allowed here"
    return _attribute_problem(node) if isinstance(node, nodes.Getattr | nodes.Getitem) else None


def _attribute_problem(node: nodes.Getattr | nodes.Getitem) -> str | None:
    """What rendering would refuse for every event, and can be seen before. Data may have names like `_id`."""
    name = node.attr if isinstance(node, nodes.Getattr) else node.arg.value if isinstance(node.arg, nodes.Const) else ""
    if not isinstance(name, str):
        return None
    of_text = isinstance(node.node, nodes.Const) and isinstance(node.node.value, str)
    if (name.startswith("__") and name.endswith("__") and len(name) > 4) or (of_text and name not in _TEXT_METHODS):
        return f"the attribute {name!r} may not be read here"
    return None


class _Guarded(jinja2.visitor.NodeTransformer):
    """Puts the counting of steps into every loop, and the limit of sizes into every `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _STEPS, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), _JOINED, [], [], None, None, lineno=node.lineno)


# --- rendering ------------------------------------------------------------------------------------------------------


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._deadline = time.thread_time() + MOST_RENDER_S
        self._steps = MOST_STEPS
        self._values = MOST_VALUES
        self._characters = MOST_OUTPUT_CHARACTERS

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"more than {MOST_STEPS} steps")
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it takes longer than {MOST_RENDER_S:g} s of processor time")

    def value(self, characters: int = 0) -> None:
        self._values -= 1
        self._characters -= characters
        if self._values < 0:
            raise SecurityError(f"it gives more than {MOST_VALUES} values")
        if self._characters < 0:
            raise SecurityError(f"it gives more than {MOST_OUTPUT_CHARACTERS} characters")


_budget: contextvars.ContextVar[_Budget] = contextvars.ContextVar("budget")


def _render_text(template: jinja2.Template, pointer: str, values: dict[str, Any]) -> str:
    with _failures(pointer):
        pieces = []
        for piece in template.generate(values):
            _budget.get().value(len(piece))
            pieces.append(piece)
        return "".join(pieces)


def _render_value(template: jinja2.Template, pointer: str, values: dict[str, Any]) -> Any:
    with _failures(pointer):
        return _plain(template.make_module(values).result, 0)  # type: ignore[attr-defined]  # the template's variable


class _failures:  # noqa: N801 - used as a context manager, and a class costs less than a generator
    def __init__(self, pointer: str) -> None:
        self._pointer = pointer

    def __enter__(self) -> None:
        _budget.get().step()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # Templates may fail in any way that Python may: all of it is the template's fault, none of it ours.
        if isinstance(error, Exception):
            problem = str(error) or type(error).__name__
            raise InputFailed(
                f"the input template at {self._pointer}: {problem[:500]}", pointer=self._pointer
            ) from error


def _plain(value: Any, depth: int) -> Any:
    """The value as JSON can carry it. Undefined values raise as they are touched."""
    if depth > MOST_DEPTH * 4:
        raise SecurityError("it gives a value that is nested too deep")
    budget = _budget.get()
    if isinstance(value, jinja2.Undefined):
        raise SecurityError(str(value) or "it gives no value: an `if` has no `else`")
    if isinstance(value, str):
        budget.value(len(value))
        return str(value)
    budget.value()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_name(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, Iterable):
        return [_plain(each, depth + 1) for each in value]
    raise SecurityError(f"it gives a {type(value).__name__}, which JSON cannot carry")


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise SecurityError(f"it gives an object with the key {key!r}; keys must be texts")
    _budget.get().value(len(key))
    return key


# --- the sandbox ----------------------------------------------------------------------------------------------------


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TEXT_METHODS = _words(
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
            return attr in _TEXT_METHODS
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
        _budget.get().step()
        yield value


def _text_of(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    _budget.get().value(len(text))
    return text


def _join(values: Any, separator: str = "") -> str:
    return _text_of(separator).join(_text_of(value) + _nothing(separator) for value in values)


def _nothing(separator: str) -> str:
    _budget.get().value(len(separator))
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
    return encode_json(_plain(value, 0)).decode()


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
        _budget.get().step()
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


_environment: Final = _make_environment()
_PUBLIC_FILTERS: Final = frozenset(
    environment_name for environment_name in _environment.filters if environment_name[0] != "_"
)


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
