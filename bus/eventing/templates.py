"""Input templates: the arguments of a delivery's call, rendered from its event.

A subscription's `input` is `{"args": [...], "kwargs": {...}}`, whose texts, however deep, are Jinja2 templates over
`event` (the whole event, as JSON has it) or, where a subscription takes its events in batches, over the list `events`.
A text that is exactly one expression, `"{{ event.data.max }}"`, gives the value itself, with its type; any other text
gives text. Without `input` the call has the event, or the list, as its one argument.

Templates come from users and run inside the dispatcher, so they are shut in: no statements but `if` and `for`, only
the filters listed here, no methods but harmless ones of text and dicts, no numbers and texts that grow beyond a size,
a number of steps and a time for each rendering. What is missing in the event is an error, not an empty text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from headrace.bus.data.json_values import encode_json
from headrace.bus.errors import FilterInvalid, InputFailed
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.template_sandbox import (
    MOST_DEPTH,
    PUBLIC_FILTERS,
    TEXT_METHODS,
    Budget,
    compiled,
    current_budget,
    environment,
    plain,
)

MOST_INPUT_BYTES: Final = 65_536
MOST_TEMPLATE_CHARACTERS: Final = 16_384
_EITHER: Final = frozenset(("event", "events"))


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
        return self.render_over({"event": dict(event.document)})

    def render_batch(self, events: Sequence[CloudEvent]) -> Arguments:
        """The arguments for a batch: templates see the list `events`. Raises as `render` does."""
        return self.render_over({"events": [dict(event.document) for event in events]})

    def render_over(self, values: dict[str, Any]) -> Arguments:
        """The arguments for these variables. Raises as `render` does."""
        token = current_budget.set(Budget())
        try:
            return Arguments(self._args(values), self._kwargs(values))
        finally:
            current_budget.reset(token)


def compile_input(document: Any) -> InputTemplate:
    """Compile an `input`; None is the default. Raises `FilterInvalid` with a JSON pointer and the line."""
    if document is None:
        return InputTemplate(None, lambda values: list(values.values()), lambda _values: {})
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


def check_variables(document: Any, known: str, pointer: str = "") -> None:
    """Check that the templates of an `input` that compiles read no variable but `known`.

    Raises `FilterInvalid` with a JSON pointer for one that no event could give.
    """
    if isinstance(document, str):
        read = find_undeclared_variables(environment.parse(document)) - set(environment.globals)
        # Whoever reads both asks which of them there is: `{{ events if events is defined else event }}`.
        unknown = read - {known} - (_EITHER if known in read & _EITHER else set())
        if unknown:
            problem = f"template: there is no variable {min(unknown)!r} here; templates see {known!r}"
            raise FilterInvalid(problem, pointer=pointer)
    elif isinstance(document, list):
        for place, each in enumerate(document):
            check_variables(each, known, f"{pointer}/{place}")
    elif isinstance(document, dict):
        for name, each in document.items():
            check_variables(each, known, f"{pointer}/{_step(name)}")


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


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


@functools.lru_cache(maxsize=512)
def _compile_text(text: str, pointer: str) -> Render:
    # Kept, for compiling one takes a third of a millisecond, and most subscriptions say the same as some other.
    if len(text) > MOST_TEMPLATE_CHARACTERS:
        raise FilterInvalid(f"a template has at most {MOST_TEMPLATE_CHARACTERS} characters", pointer=pointer)
    if "{" not in text:
        return lambda _values: text
    try:
        tree = environment.parse(text)
        _check(tree, pointer)
        expression = _only_expression(tree)
        if expression is None:
            return functools.partial(_render_text, compiled(tree), pointer)
        # An assignment keeps what the expression gives, where output would make it text.
        body = [nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)]
        return functools.partial(_render_value, compiled(nodes.Template(body, lineno=1)), pointer)
    except jinja2.TemplateSyntaxError as error:
        raise FilterInvalid(f"template, line {error.lineno}: {error.message}", pointer=pointer) from error
    except RecursionError as error:
        raise FilterInvalid("the template is nested too deep", pointer=pointer) from error


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
    if isinstance(node, nodes.Filter) and node.name not in PUBLIC_FILTERS:
        return f"unknown filter {node.name!r}; known: {', '.join(sorted(PUBLIC_FILTERS))}"
    if isinstance(node, nodes.Test) and node.name not in environment.tests:
        return f"unknown test {node.name!r}; known: {', '.join(sorted(environment.tests))}"
    if isinstance(node, nodes.Call) and (node.dyn_args or node.dyn_kwargs):
        return "a call with * or ** is not allowed here"
    return _attribute_problem(node) if isinstance(node, nodes.Getattr | nodes.Getitem) else None


def _attribute_problem(node: nodes.Getattr | nodes.Getitem) -> str | None:
    """What rendering would refuse for every event, and can be seen before. Data may have names like `_id`."""
    name = node.attr if isinstance(node, nodes.Getattr) else node.arg.value if isinstance(node.arg, nodes.Const) else ""
    if not isinstance(name, str):
        return None
    of_text = isinstance(node.node, nodes.Const) and isinstance(node.node.value, str)
    if (name.startswith("__") and name.endswith("__") and len(name) > 4) or (of_text and name not in TEXT_METHODS):
        return f"the attribute {name!r} may not be read here"
    return None


def _render_text(template: jinja2.Template, pointer: str, values: dict[str, Any]) -> str:
    with _failures(pointer):
        pieces = []
        for piece in template.generate(values):
            current_budget.get().value(len(piece))
            pieces.append(piece)
        return "".join(pieces)


def _render_value(template: jinja2.Template, pointer: str, values: dict[str, Any]) -> Any:
    with _failures(pointer):
        return plain(template.make_module(values).result, 0)  # type: ignore[attr-defined]  # the template's variable


class _failures:  # noqa: N801 - used as a context manager, and a class costs less than a generator
    def __init__(self, pointer: str) -> None:
        self._pointer = pointer

    def __enter__(self) -> None:
        current_budget.get().step()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # Templates may fail in any way that Python may: all of it is the template's fault, none of it ours.
        if isinstance(error, Exception):
            problem = str(error) or type(error).__name__
            raise InputFailed(
                f"the input template at {self._pointer}: {problem[:500]}", pointer=self._pointer
            ) from error
