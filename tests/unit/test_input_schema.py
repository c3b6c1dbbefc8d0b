"""What a function takes, as a JSON schema: from its object, and from its source without running it."""

from __future__ import annotations

import enum
import functools
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic, NewType, NotRequired, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.action_provider.providers.arguments import arguments_of
from headrace.schemas import SchemaViolation, check_schema, validate_against
from headrace.sdk import ShellFunction
from headrace.sdk.input_schema import of_function, of_source
from headrace.sdk.input_schema.docstrings import parameter_texts, summary
from headrace.sdk.input_schema.functions import of_hint
from headrace.sdk.input_schema.signatures import MOST_BYTES

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]  # a name that only type checkers see

HEAD = """
import datetime, enum, pathlib, uuid
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypedDict, Union

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

@dataclass
class Point:
    x: float
    y: float = 0.0

class Options(TypedDict):
    depth: int
    name: NotRequired[str]

Metres = NewType("Metres", float)
Pair = t.Tuple[int, int]
"""

# A hint, its schema, values that fit, and values that do not.
HINTS: list[tuple[str, dict[str, Any], list[Any], list[Any]]] = [
    ("int", {"type": "integer"}, [0, -7], ["1", 1.5, None]),
    ("float", {"type": "number"}, [0, 1.5], ["1"]),
    ("bool", {"type": "boolean"}, [True], [1, "yes"]),
    ("str", {"type": "string"}, ["", "ä"], [1]),
    ("None", {"type": "null"}, [None], [0]),
    ("Any", {}, [None, 1, "x", [], {}], []),
    ("object", {}, [None, {}], []),
    ("bytes", {}, ["anything"], []),
    ("list", {"type": "array"}, [[], [1, "x"]], [{}, "x"]),
    ("list[int]", {"type": "array", "items": {"type": "integer"}}, [[], [1]], [["x"]]),
    ("t.List[Any]", {"type": "array"}, [[1, "x"]], [1]),
    ("Sequence[str]", {"type": "array", "items": {"type": "string"}}, [["a"]], ["a", [1]]),
    ("set[str]", {"type": "array", "uniqueItems": True, "items": {"type": "string"}}, [["a"]], [["a", "a"]]),
    (
        "tuple[int, str]",
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        [[1, "a"]],
        [[1], [1, "a", 2], ["a", 1]],
    ),
    ("tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}, [[], [1, 2, 3]], [["a"]]),
    ("tuple[()]", {"type": "array", "minItems": 0, "maxItems": 0}, [[]], [[1]]),
    ("dict[str, int]", {"type": "object", "additionalProperties": {"type": "integer"}}, [{"a": 1}], [{"a": "b"}, []]),
    ("Mapping[str, Any]", {"type": "object"}, [{"a": None}], [[]]),
    ("Optional[int]", {"type": ["integer", "null"]}, [None, 1], ["x"]),
    ("Union[int, str]", {"type": ["integer", "string"]}, [1, "x"], [None, []]),
    ("int | list[int]", {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}, [1], ["x"]),
    ("int | Any", {}, [1, "x"], []),
    ('Literal["a", 1, None]', {"enum": ["a", 1, None]}, ["a", 1, None], ["b", 2]),
    ("Literal[Colour.RED]", {"enum": ["red"]}, ["red"], ["blue"]),
    ("Colour", {"enum": ["red", "blue"]}, ["blue"], ["green", "RED"]),
    ("datetime.datetime", {"type": "string", "format": "date-time"}, ["2026-03-01T00:00:00Z"], [5]),
    ("datetime.date", {"type": "string", "format": "date"}, ["2026-03-01"], [5]),
    ("uuid.UUID", {"type": "string", "format": "uuid"}, ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"], [5]),
    ("pathlib.Path", {"type": "string", "format": "path"}, ["/data"], [5]),
    ("Decimal", {"type": ["number", "string"]}, ["1.10", 2], [None]),
    ("Metres", {"type": "number"}, [1.5], ["x"]),
    (
        "Pair",
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "integer"}], "minItems": 2, "maxItems": 2},
        [[1, 2]],
        [[1]],
    ),
    ('Annotated[int, "how deep"]', {"type": "integer", "description": "how deep"}, [1], ["x"]),
    (
        "Point",
        {
            "type": "object",
            "title": "Point",
            "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
            "required": ["x"],
            "additionalProperties": False,
        },
        [{"x": 1}, {"x": 1, "y": 2}],
        [{"y": 1}, {"x": 1, "z": 3}],
    ),
    (
        "Options",
        {
            "type": "object",
            "title": "Options",
            "properties": {"depth": {"type": "integer"}, "name": {"type": "string"}},
            "required": ["depth"],
        },
        [{"depth": 1}, {"depth": 1, "name": "n"}],
        [{"name": "n"}],
    ),
    ('"int"', {"type": "integer"}, [1], ["x"]),
    ('list["Colour"]', {"type": "array", "items": {"enum": ["red", "blue"]}}, [["red"]], [["green"]]),
    ("complex", {}, [1, "1j"], []),
]


def made(source: str, name: str = "f") -> Callable[..., Any]:
    """The function that a text defines, run here as a user's module is at home."""
    module = types.ModuleType("users_module")
    sys.modules["users_module"] = module  # dataclasses look there for the names in texts
    exec(compile(source, "<users module>", "exec", dont_inherit=True), vars(module))  # noqa: S102 - our own text
    function: Callable[..., Any] = vars(module)[name]
    return function


def both(source: str, name: str = "f") -> dict[str, Any]:
    """The schema, which must be the same from the object and from the text."""
    from_object, from_text = of_function(made(source, name)), of_source(source, name)
    assert from_object == from_text
    check_schema(from_object)
    return from_object


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value passes."""
    try:
        validate_against(schema, value)
    except SchemaViolation:
        return False
    return True


@pytest.mark.parametrize(("hint", "expected", "good", "bad"), HINTS, ids=[hint for hint, *_ in HINTS])
def test_a_hint_is_a_schema_both_from_the_object_and_from_the_text(
    hint: str, expected: dict[str, Any], good: list[Any], bad: list[Any]
) -> None:
    schema = both(f"{HEAD}\ndef f(x: {hint}): ...\n")

    assert schema["properties"]["x"] == expected
    assert [value for value in good if not fits(schema, {"x": value})] == []
    assert [value for value in bad if fits(schema, {"x": value})] == []


def test_hints_are_read_alike_when_they_are_texts() -> None:
    text = f"from __future__ import annotations\n{HEAD}\ndef f(a: int | None, b: list[Point] = ()): ...\n"

    schema = both(text)

    assert schema["properties"]["a"] == {"type": ["integer", "null"]}
    assert schema["properties"]["b"]["items"]["title"] == "Point"


def test_every_kind_of_parameter_has_its_place() -> None:
    schema = both("def f(a, b=1, /, c=2, *rest: int, d, e=None, **more: str): ...\n")

    assert schema == {
        "type": "object",
        "properties": {
            "a": {},
            "b": {"default": 1},
            "c": {"default": 2},
            "d": {},
            "e": {"default": None},
            "rest": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["a", "d"],
        "additionalProperties": {"type": "string"},
        "dependentRequired": {"rest": ["b", "c"]},
        "x-positional": ["a", "b", "c"],
        "x-variadic": "rest",
    }


def test_what_is_passed_by_position_leaves_no_gap() -> None:
    schema = both("def f(a=1, b=2, c=3, /): return (a, b, c)\n")

    assert schema["dependentRequired"] == {"b": ["a"], "c": ["b"]}
    assert not fits(schema, {"b": 1})
    assert arguments_of(schema, {"a": 5, "b": 6}) == ([5, 6], {})


def test_a_function_without_parameters_takes_nothing() -> None:
    schema = both("def f(): ...\n")

    assert fits(schema, {})
    assert not fits(schema, {"x": 1})


def test_a_default_of_none_lets_null_pass() -> None:
    schema = both("def f(x: int = None, y: list[int] = None): ...\n")

    assert schema["properties"]["x"] == {"type": ["integer", "null"], "default": None}
    assert fits(schema, {"x": None, "y": None})


def test_defaults_that_json_does_not_have_are_left_out() -> None:
    schema = both(f"{HEAD}\ndef f(a=object, b=float('nan'), c=(1, 2), d=Colour.RED, e=b'x'): ...\n")

    assert "required" not in schema
    assert schema["properties"] == {"a": {}, "b": {}, "c": {"default": [1, 2]}, "d": {"default": "red"}, "e": {}}


def test_a_dataclass_is_what_its_constructor_takes() -> None:
    text = """
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

@dataclass
class Run:
    path: str
    kind: ClassVar[str] = "run"
    made: int = field(init=False, default=0)
    parts: list[int] = field(default_factory=list)
    _: KW_ONLY
    depth: int = field(default=3)

def f(run: Run): ...
"""
    members = {
        "path": {"type": "string"},
        "parts": {"type": "array", "items": {"type": "integer"}},
        "depth": {"type": "integer"},
    }

    run = both(text)["properties"]["run"]
    assert (run["properties"], run["required"], run["additionalProperties"]) == (members, ["path"], False)
    constructor = both(text, "Run")
    assert constructor["properties"] == {**members, "depth": {"type": "integer", "default": 3}}


GOOGLE = """Reduces a run.

Which takes a while.

Args:
    path (str): Where the run
        lies: a folder.
    depth: How deep.
    **more: Anything else.

Returns:
    depth: Not this one.
"""
NUMPY = """Reduces a run.

Parameters
----------
path : str
    Where the run
    lies: a folder.
depth : int, optional
    How deep.
**more
    Anything else.

Returns
-------
depth
    Not this one.
"""
SPHINX = """Reduces a run.

:param str path: Where the run
    lies: a folder.
:param depth: How deep.
:type depth: int
:param more: Anything else.
:returns: Not this one.
"""


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_a_docstring_describes_the_parameters(docstring: str) -> None:
    body = textwrap.indent(f'"""{docstring}"""', "    ")
    schema = both(f"def f(path, depth=1, **more):\n{body}\n")

    assert schema["description"] == "Reduces a run."
    assert schema["properties"]["path"]["description"] == "Where the run lies: a folder."
    assert schema["properties"]["depth"]["description"] == "How deep."
    assert parameter_texts(docstring)["more"] == "Anything else."


@given(st.text())
def test_any_text_may_be_a_docstring(text: str) -> None:
    assert isinstance(parameter_texts(text), dict)
    assert isinstance(summary(text), str)


@given(st.text())
def test_any_text_may_be_a_source(text: str) -> None:
    assert of_source(text, "f") == {"type": "object"}


def test_a_source_is_never_run(tmp_path: Any) -> None:
    mark = tmp_path / "ran"
    source = f"open({str(mark)!r}, 'w')\ndef f(x: int = open({str(mark)!r}, 'w')): ...\n"

    assert of_source(source, "f")["properties"] == {"x": {"type": "integer"}}
    assert not mark.exists()


def test_a_decorator_that_is_not_known_says_nothing() -> None:
    source = (
        "import functools\nfrom x import odd\n@odd\ndef f(x): ...\n@functools.lru_cache(maxsize=3)\ndef g(x): ...\n"
    )

    assert of_source(source, "f") == {"type": "object"}
    assert of_source(source, "g")["required"] == ["x"]


def test_names_that_the_module_takes_for_itself_are_its_own() -> None:
    assert of_source("from x import int\ndef f(a: int): ...\n", "f")["properties"] == {"a": {}}
    assert of_source("class int: pass\ndef f(a: int): ...\n", "f")["properties"] == {"a": {}}


class Kept:
    """What holds functions may be an object."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def method(self, name: str) -> None:
        """A method."""

    def __call__(self, name: str, *, loud: bool = False) -> None:
        """Called."""


@functools.wraps(Kept.method)
def wrapping(*args: Any, **kwargs: Any) -> Any:
    """Passes on."""


@pytest.mark.parametrize(
    ("function", "names", "required"),
    [
        (Kept(1).method, ["name"], ["name"]),
        (Kept(1), ["name", "loud"], ["name"]),
        (Kept, ["depth"], ["depth"]),
        (functools.partial(Kept(1), "x"), ["loud"], None),
        (functools.partial(Kept(1), name="x"), ["name", "loud"], None),
        (lambda a, b=2: a, ["a", "b"], ["a"]),
        (ShellFunction("convert {source} {target}"), ["source", "target"], ["source", "target"]),
    ],
)
def test_whatever_can_be_called_has_a_schema(
    function: Callable[..., Any], names: list[str], required: list[str] | None
) -> None:
    schema = of_function(function)

    assert list(schema["properties"]) == names
    assert schema.get("required") == required
    check_schema(schema)


def test_a_partial_of_a_cached_function_knows_its_hints() -> None:
    @functools.lru_cache
    def cached(a: int, b: str) -> None: ...

    assert of_function(functools.partial(cached, b="x"))["properties"]["a"] == {"type": "integer"}


def test_a_method_of_an_object_knows_its_hints() -> None:
    assert of_function(Kept(1).method)["properties"]["name"] == {"type": "string"}
    assert of_function(Kept(1))["properties"]["loud"] == {"type": "boolean", "default": False}
    assert of_function(Kept)["properties"]["depth"] == {"type": "integer"}
    assert of_function(wrapping)["properties"]["name"] == {"type": "string"}


def test_what_has_no_signature_takes_anything() -> None:
    assert of_function(max) == {"type": "object"}


def test_a_hint_for_type_checkers_only_spoils_its_own_parameter() -> None:
    def f(a: Missing, b: int) -> None: ...

    assert of_function(f)["properties"] == {"a": {}, "b": {"type": "integer"}}


@dataclass
class Node:
    """Contains itself."""

    value: int
    made: list[int] = field(default_factory=list)
    next: Node | None = None


Named = TypeVar("Named", bound=str)


class Box(Generic[Named]):
    """Of what is not known here."""


class Spell(TypedDict, total=False):
    """All may be missing."""

    word: str
    times: NotRequired[int]


class Level(enum.IntEnum):
    """Numbers with names."""

    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Ge:
    """As of annotated-types."""

    ge: float


def test_hints_that_contain_themselves_end() -> None:
    schema = of_hint(Node)

    assert schema["properties"]["next"] == {}
    assert schema["required"] == ["value"]


def test_hints_of_many_kinds() -> None:
    assert of_hint(Named) == {"type": "string"}
    assert of_hint(Box[str]) == {}
    assert of_hint(Spell) == {
        "type": "object",
        "title": "Spell",
        "properties": {"word": {"type": "string"}, "times": {"type": "integer"}},
    }
    assert of_hint(Level) == {"enum": [1, 2]}
    assert of_hint(NewType("Id", str)) == {"type": "string"}
    assert of_hint(Annotated[float, Ge(2)]) == {"type": "number", "minimum": 2}
    assert of_hint(Annotated[str, Ge(2)]) == {"type": "string"}
    described = Annotated[list[int], msgspec.Meta(min_length=1, title="Runs", description="At least one.")]
    assert of_hint(described) == {
        "type": "array",
        "items": {"type": "integer"},
        "minItems": 1,
        "title": "Runs",
        "description": "At least one.",
    }
    field = types.SimpleNamespace(metadata=[Ge(3)], description="As of pydantic.")
    assert of_hint(Annotated[int, field]) == {"type": "integer", "minimum": 3, "description": "As of pydantic."}


def test_an_object_that_answers_everything_with_an_error_takes_anything() -> None:
    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __call__(self) -> None: ...

    assert of_function(Odd())["type"] == "object"


def test_a_schema_never_exceeds_what_the_service_takes() -> None:
    names = ", ".join(f"p{n}: int = {n}" for n in range(200))
    text = "\n".join(f"    p{n}: {'x' * 900}" for n in range(200))
    source = f'def f({names}):\n    """Much.\n\n    Args:\n{textwrap.indent(text, "    ")}\n    """\n'

    schema = both(source)

    assert len(json.dumps(schema)) <= MOST_BYTES
    assert schema["properties"]["p7"] == {"type": "integer", "default": 7}


# Every derived schema is valid, and accepts the arguments that the function accepts.

_FITTING = [(hint, good) for hint, _, good, _ in HINTS]


@st.composite
def functions(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A function's text, and a body with some of its arguments, all of them that it needs."""
    chosen = draw(st.lists(st.sampled_from(_FITTING), max_size=6))
    cuts = sorted(draw(st.lists(st.integers(0, len(chosen)), min_size=2, max_size=2)))
    first_default = draw(st.integers(0, len(chosen)))
    variadic, keywords = draw(st.booleans()), draw(st.booleans())
    parts: list[str] = []
    body: dict[str, Any] = {}
    gap = False
    for place, (hint, good) in enumerate(chosen):
        by_position_only, keyword_only = place < cuts[0], place >= cuts[1]
        optional = draw(st.booleans()) if keyword_only else place >= first_default
        if place == cuts[1]:
            parts.append("*rest: int" if variadic else "*")
        parts.append(f"p{place}: {hint}" + (" = None" if optional else ""))
        if by_position_only and place + 1 == cuts[0]:
            parts.append("/")
        given_it = not optional or (draw(st.booleans()) and not (by_position_only and gap))
        gap = gap or not given_it
        if given_it:
            body[f"p{place}"] = draw(st.sampled_from(good))
    if variadic and cuts[1] == len(chosen):
        parts.append("*rest: int")
    if variadic and all(f"p{place}" in body for place in range(cuts[1])) and draw(st.booleans()):
        body["rest"] = draw(st.lists(st.integers(), max_size=3))
    if keywords:
        parts.append("**more: str")
        body.update(draw(st.dictionaries(st.sampled_from(["extra", "Ü", "with-dash"]), st.text(max_size=3))))
    return f"{HEAD}\ndef f({', '.join(parts)}): ...\n", body


@settings(max_examples=60, deadline=None)
@given(functions())
def test_a_schema_accepts_what_its_function_accepts(drawn: tuple[str, dict[str, Any]]) -> None:
    source, body = drawn
    schema = both(source)

    validate_against(schema, body)
    args, kwargs = arguments_of(schema, body)
    bound = inspect.signature(made(source)).bind(*args, **kwargs)
    passed = dict(bound.arguments)
    passed.update(passed.pop("more", {}))
    rest = passed.pop("rest", ())
    assert list(rest) == body.get("rest", [])
    assert passed == {name: value for name, value in body.items() if name != "rest"}
