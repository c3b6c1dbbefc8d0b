"""Filters: the dialects of the CloudEvents Subscriptions API, event patterns among them.

    {"exact": {"type": "org.example.done", "source": "/lab"}}     every attribute is the text
    {"prefix": {"subject": "run-"}}    {"suffix": {"type": ".failed"}}
    {"all": [F, …]}    {"any": [F, …]}    {"not": F}
    {"sql": "type LIKE 'org.%' AND sequence > 5"}                 a CESQL expression
    {"pattern": {"data": {"state": ["done"]}}}                    an event pattern, over the whole event
    {"extended-pattern": {"data": {"tags": [{"all-of": ["a"]}]}}} one in our larger dialect

An attribute that an event does not have fits nothing. Booleans and integers are compared in their text form. Several
dialects in one object must all fit, and a list of filters is `all` of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.errors import FilterInvalid, InvalidExpression, InvalidPattern
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.filters.cesql import CESQL
from headrace.bus.filters.explanation import Explanation
from headrace.bus.filters.needs import Anchor, Needs, any_of, need
from headrace.bus.filters.patterns import Dialect, EventPattern
from headrace.bus.filters.view import EventView

MOST_DEPTH: Final = 16
MOST_CLAUSES: Final = 256
MOST_TEXT: Final = 2048

_MOST_SHOWN: Final = 200
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")
_PATTERNS: Final[dict[str, Dialect]] = {"pattern": "eventbridge", "extended-pattern": "extended"}
_COMPARISONS: Final[dict[str, Callable[[str, str], bool]]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
}
_WORDS: Final = {"exact": "is", "prefix": "begins with", "suffix": "ends with"}

Test = Callable[[EventView], bool]


@dataclass(frozen=True, slots=True)
class Part:
    """One clause of a filter: its test, what an event needs to pass it, and how it is explained."""

    fits: Test
    needs: Needs
    explain: Callable[[EventView], Explanation]


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter."""

    document: Any
    root: Part

    def matches(self, event: CloudEvent) -> bool:
        """Whether the event passes."""
        return self.root.fits(EventView(event))

    def explain(self, event: CloudEvent) -> Explanation:
        """Why the event passes, or does not."""
        return self.root.explain(EventView(event))


def compile_filter(document: Any) -> Filter:
    """Compile a filter as JSON has it. Raises `FilterInvalid` with a JSON pointer to what is wrong."""
    return Filter(document, _Compiler().compile(document, "", 0))


class _Compiler:
    def __init__(self) -> None:
        self._clauses = 0

    def compile(self, document: Any, pointer: str, depth: int) -> Part:
        if depth > MOST_DEPTH:
            raise FilterInvalid(f"filters are nested more than {MOST_DEPTH} deep", pointer=pointer)
        if isinstance(document, list):
            return _all(self._list(document, pointer, depth), pointer)
        if not isinstance(document, dict) or not document:
            raise FilterInvalid('a filter is an object such as {"exact": {"type": "…"}}', pointer=pointer)
        parts = [self._dialect(name, body, f"{pointer}/{_step(name)}", depth) for name, body in document.items()]
        return parts[0] if len(parts) == 1 else _all(parts, pointer)

    def _dialect(self, name: str, body: Any, pointer: str, depth: int) -> Part:
        if name in _COMPARISONS:
            return self._attributes(name, body, pointer)
        if name in _PATTERNS:
            return self._pattern(name, body, pointer)
        match name:
            case "all":
                return _all(self._list(body, pointer, depth), pointer)
            case "any":
                return _any(self._list(body, pointer, depth), pointer)
            case "not":
                return _not(self.compile(body, pointer, depth + 1), pointer)
            case "sql":
                return self._sql(body, pointer)
        known = ", ".join((*_COMPARISONS, "all", "any", "not", "sql", *_PATTERNS))
        raise FilterInvalid(f"unknown dialect {name[:40]!r}; known: {known}", pointer=pointer)

    def _list(self, body: Any, pointer: str, depth: int) -> list[Part]:
        if not isinstance(body, list) or not body:
            raise FilterInvalid("a list of at least one filter is needed here", pointer=pointer)
        return [self.compile(each, f"{pointer}/{place}", depth + 1) for place, each in enumerate(body)]

    def _attributes(self, dialect: str, body: Any, pointer: str) -> Part:
        if not isinstance(body, dict) or not body:
            raise FilterInvalid(f"{dialect} takes an object of attributes and texts, at least one", pointer=pointer)
        parts = []
        for name, text in body.items():
            place = f"{pointer}/{_step(name)}"
            self._check_attribute(name, text, place)
            parts.append(_attribute(dialect, name, text, place))
        return parts[0] if len(parts) == 1 else _all(parts, pointer)

    def _check_attribute(self, name: str, text: Any, pointer: str) -> None:
        self._count(pointer)
        if name == "data" or not _ATTRIBUTE.fullmatch(name):
            raise FilterInvalid(
                f"{name[:40]!r} is not an attribute of an event: 1 to 20 characters of a-z and 0-9 (not `data`)",
                pointer=pointer,
            )
        if not isinstance(text, str) or not text or len(text) > MOST_TEXT:
            raise FilterInvalid(f"a text of 1 to {MOST_TEXT} characters is needed here", pointer=pointer)

    def _pattern(self, name: str, body: Any, pointer: str) -> Part:
        self._count(pointer)
        if not isinstance(body, dict):
            raise FilterInvalid(f"{name} takes an event pattern, which is an object", pointer=pointer)
        try:
            pattern = EventPattern(body, dialect=_PATTERNS[name])
        except InvalidPattern as error:
            raise InvalidPattern(str(error.problem), pointer=f"{pointer}{error.pointer}") from None
        return Part(
            lambda view: pattern.matches(view.document),
            pattern.needs,
            lambda view: pattern.explain(view.document, pointer),
        )

    def _sql(self, body: Any, pointer: str) -> Part:
        self._count(pointer)
        if not isinstance(body, (str, bool)):
            raise FilterInvalid("sql takes a CESQL expression, which is a text", pointer=pointer)
        try:
            expression = CESQL(body)
        except InvalidExpression as error:
            raise InvalidExpression(error.problem, position=error.position, pointer=pointer) from None

        def explain(view: EventView) -> Explanation:
            value, fault = expression.evaluate(view.attributes)
            found = f"an error ({fault})" if fault else f"the value {json.dumps(value)[:_MOST_SHOWN]}"
            return Explanation(
                pointer=pointer,
                clause=f"the expression {body} is true",
                passed=value is True and not fault,
                found=found,
            )

        return Part(lambda view: expression.matches(view.attributes), expression.needs, explain)

    def _count(self, pointer: str) -> None:
        self._clauses += 1
        if self._clauses > MOST_CLAUSES:
            raise FilterInvalid(f"a filter compares at most {MOST_CLAUSES} attributes", pointer=pointer)


def _attribute(dialect: str, name: str, text: str, pointer: str) -> Part:
    compare = _COMPARISONS[dialect]

    def fits(view: EventView) -> bool:
        found = view.texts.get(name)
        return found is not None and compare(found, text)

    def explain(view: EventView) -> Explanation:
        found = view.texts.get(name)
        return Explanation(
            pointer=pointer,
            clause=f"{name} {_WORDS[dialect]} {json.dumps(text, ensure_ascii=False)}",
            passed=fits(view),
            found=f"no {name}" if found is None else json.dumps(found, ensure_ascii=False)[:_MOST_SHOWN],
        )

    return Part(fits, need(Anchor(dialect, name, text)), explain)  # type: ignore[arg-type]  # the dialects' own names


def _all(parts: list[Part], pointer: str) -> Part:
    tests = [part.fits for part in parts]
    return Part(
        lambda view: all(test(view) for test in tests),
        tuple(each for part in parts for each in part.needs),
        lambda view: _joined("all of", parts, view, pointer, passed=all(test(view) for test in tests)),
    )


def _any(parts: list[Part], pointer: str) -> Part:
    tests = [part.fits for part in parts]
    return Part(
        lambda view: any(test(view) for test in tests),
        any_of([part.needs for part in parts]),
        lambda view: _joined("any of", parts, view, pointer, passed=any(test(view) for test in tests)),
    )


def _not(part: Part, pointer: str) -> Part:
    test = part.fits
    return Part(
        lambda view: not test(view),
        (),
        lambda view: _joined("not", [part], view, pointer, passed=not test(view)),
    )


def _joined(word: str, parts: list[Part], view: EventView, pointer: str, *, passed: bool) -> Explanation:
    explained = tuple(part.explain(view) for part in parts)
    return Explanation(pointer=pointer, clause=word, passed=passed, parts=explained)


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
