"""Schemas that users give to the service: what of JSON Schema they may use, and validation that always ends soon.

A schema is a program that runs on whatever somebody else sends. So a given one refers to nothing outside of itself, its
patterns are such that matching cannot take long, and validating a document takes a limited number of steps.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from re import _constants as regex  # type: ignore[attr-defined]  # what `re` itself reads patterns with
from re import _parser  # type: ignore[attr-defined]  # likewise
from typing import Any, Final, Literal

import jsonschema
from jsonschema_specifications import REGISTRY as SPECIFICATIONS  # type: ignore[import-untyped] # it has no types
from referencing.exceptions import Unresolvable

from headrace.schemas.errors import SchemaViolation, Violation
from headrace.schemas.validator import check_schema, raise_violations

MOST_BYTES: Final = 32 * 1024
"""The largest schema, as JSON without spaces."""

MOST_STEPS: Final = 1_000_000
"""So many keywords are evaluated for a large document, at most; for others, as many as their size gives reason for."""

TOO_LONG: Final = "tooLong"

_LEAST_STEPS = 10_000
_STEPS_PER_BYTE = 4
_MOST_DEPTH = 40
_MOST_TEXT = 1000
_MOST_TRIES = 1_000_000
# They look at a document through several schemas at once, in ways that no number of steps bounds well.
_REFUSED = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems")
_REPEATS = (regex.MAX_REPEAT, regex.MIN_REPEAT, regex.POSSESSIVE_REPEAT)
_PLAIN = (regex.LITERAL, regex.NOT_LITERAL, regex.ANY, regex.IN, regex.AT)

_Keyword = Callable[..., Iterable[jsonschema.ValidationError] | None]


class _TooManyStepsError(Exception):
    """The document would take too long."""


_steps: ContextVar[list[int]] = ContextVar("steps")


def check_given(description: object, *, name: str, whole: Literal["object", "any"] = "object") -> None:
    """Check a schema that a user gives for JSON objects, or for any JSON.

    Raises `SchemaViolation` with each place and problem.
    """
    if not isinstance(description, dict):
        raise _refused(name, "", "a schema is a JSON object here")
    try:
        size = len(json.dumps(description, separators=(",", ":")))
    except RecursionError:
        raise _refused(name, "", f"the schema is nested more than {_MOST_DEPTH} deep") from None
    if size > MOST_BYTES:
        raise _refused(name, "", f"the schema has {size} bytes; at most {MOST_BYTES} are taken")
    if whole == "object" and description.get("type", "object") != "object":
        raise _refused(name, "/type", "the whole is an object, so this must be 'object'")
    problems = list(_problems(description, description, "", 0))
    if problems:
        raise SchemaViolation(name, tuple(problems[:20]))
    check_schema(description)


def validate_given(description: dict[str, Any], document: object, *, name: str, steps: int | None = None) -> None:
    """Check a document against a schema that `check_given` has passed.

    Raises `SchemaViolation`; its keyword is `TOO_LONG` when so many steps (by default what is reasonable for the
    document's size) do not suffice.
    """
    validator = _Limited(description, registry=SPECIFICATIONS)
    token = _steps.set([_reasonable(document) if steps is None else steps])
    try:
        raise_violations(name, validator, document)
    except (_TooManyStepsError, RecursionError):
        raise _refused(name, "", "checking this against its schema would take too long", TOO_LONG) from None
    except Unresolvable as error:
        raise _refused(name, "", f"the schema refers to {error.ref!r}, which is not in it") from error
    finally:
        _steps.reset(token)


def _reasonable(document: object) -> int:
    # A list of small numbers has two bytes and a keyword or two for each.
    try:
        return min(_LEAST_STEPS + _STEPS_PER_BYTE * len(json.dumps(document)), MOST_STEPS)
    except RecursionError:
        return _LEAST_STEPS


def _problems(node: Any, root: dict[str, Any], pointer: str, depth: int) -> Iterator[Violation]:
    if depth > _MOST_DEPTH:
        yield Violation(pointer=pointer, problem=f"the schema is nested more than {_MOST_DEPTH} deep")
        return
    if isinstance(node, list):
        for place, each in enumerate(node):
            yield from _problems(each, root, f"{pointer}/{place}", depth + 1)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        below = f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"
        # A property may have any name, also that of a keyword.
        if not pointer.endswith("/properties"):
            yield from _keyword_problems(key, value, root, below)
        if key not in ("enum", "const", "default", "examples"):
            yield from _problems(value, root, below, depth + 1)


def _keyword_problems(key: str, value: Any, root: dict[str, Any], pointer: str) -> Iterator[Violation]:
    if key in _REFUSED:
        yield Violation(pointer=pointer, problem=f"{key} is not taken here; say it without")
    elif key == "$ref" and not _is_within(value, root):
        yield Violation(pointer=pointer, problem=f"{str(value)[:80]!r} is not in this schema; write `#/$defs/NAME`")
    elif key == "pattern":
        yield from _pattern_problems(value, pointer)
    elif key == "patternProperties" and isinstance(value, dict):
        for pattern in value:
            yield from _pattern_problems(pattern, pointer)


def _pattern_problems(pattern: Any, pointer: str) -> Iterator[Violation]:
    if not isinstance(pattern, str):
        return  # the schema of schemas says so
    try:
        with warnings.catch_warnings():
            # What `re` is to read otherwise one day is refused as well.
            warnings.simplefilter("error")
            parsed = _parser.parse(pattern)
    except (_parser.error, RecursionError, OverflowError, Warning) as error:
        yield Violation(pointer=pointer, problem=f"{pattern[:80]!r} is not a regular expression: {error}")
        return
    items = list(parsed)
    # With (?m) there is a beginning behind each end of a line.
    first = bool(items) and items[0][0] is regex.AT and "BEGINNING" in str(items[0][1])
    anchored = first and not parsed.state.flags & re.MULTILINE
    if _tries(parsed) * (1 if anchored else _MOST_TEXT) > _MOST_TRIES:
        problem = (
            f"{pattern[:80]!r} could take too long to match: begin it with ^, and let it hold few repetitions, none of"
            " them within another"
        )
        yield Violation(pointer=pointer, problem=problem)


def _tries(items: Iterable[Any]) -> float:
    """How many ways a text of `_MOST_TEXT` characters could be tried in, at most."""
    tries = 1.0
    for operation, value in items:
        if operation in _PLAIN:
            continue
        if operation in _REPEATS:
            least, most, inner = value
            rounds = min(int(most), _MOST_TEXT)
            tries *= (rounds - min(int(least), rounds) + 1) * _power(_tries(inner), rounds)
        elif operation is regex.SUBPATTERN:
            tries *= _tries(value[-1])
        elif operation is regex.ATOMIC_GROUP:
            tries *= _tries(value)
        elif operation is regex.BRANCH:
            tries *= sum(_tries(each) for each in value[1])
        else:
            return float("inf")  # references back, looks ahead and behind
    return tries


def _power(base: float, exponent: int) -> float:
    try:
        return base**exponent
    except OverflowError:
        return float("inf")


def _is_within(reference: Any, root: dict[str, Any]) -> bool:
    if reference == "#":
        return True
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return False
    node: Any = root
    for step in reference[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict) and name in node:
            node = node[name]
        else:
            return False
    return isinstance(node, dict | bool)


def _counted(keyword: _Keyword) -> _Keyword:
    def evaluate(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
        steps = _steps.get()
        steps[0] -= 1
        if steps[0] < 0:
            raise _TooManyStepsError
        yield from keyword(validator, value, instance, schema) or ()

    return evaluate


def _short_enough(keyword: _Keyword) -> _Keyword:
    def evaluate(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
        texts = [instance] if isinstance(instance, str) else instance if "patternProperties" in schema else ()
        if any(isinstance(each, str) and len(each) > _MOST_TEXT for each in texts):
            yield jsonschema.ValidationError(f"more than {_MOST_TEXT} characters where a pattern is to be matched")
        else:
            yield from keyword(validator, value, instance, schema) or ()

    return evaluate


def _unique_items(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:
    # The library compares each with each.
    if wanted and isinstance(instance, list):
        seen = {json.dumps(_same_numbers(each), sort_keys=True) for each in instance}
        if len(seen) < len(instance):
            yield jsonschema.ValidationError(f"{str(instance)[:200]} has non-unique elements")


def _same_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_same_numbers(each) for each in value]
    if isinstance(value, dict):
        return {key: _same_numbers(each) for key, each in value.items()}
    return value


def _keywords() -> dict[str, _Keyword]:
    known: dict[str, _Keyword] = dict(jsonschema.Draft202012Validator.VALIDATORS)
    known["uniqueItems"] = _unique_items
    for name in ("pattern", "patternProperties", "additionalProperties"):
        known[name] = _short_enough(known[name])
    return {name: _counted(keyword) for name, keyword in known.items()}


_Limited: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]  # it has no types
    jsonschema.Draft202012Validator, _keywords()
)


def _refused(name: str, pointer: str, problem: str, keyword: str = "") -> SchemaViolation:
    return SchemaViolation(name, (Violation(pointer=pointer, problem=problem, keyword=keyword),))
