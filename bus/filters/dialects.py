"""The filter dialects of the CloudEvents Subscriptions API: exact, prefix, suffix, all, any and not.

    {"exact": {"type": "org.example.done", "source": "/lab"}}     every attribute is the text
    {"prefix": {"subject": "run-"}}    {"suffix": {"type": ".failed"}}
    {"all": [F, …]}    {"any": [F, …]}    {"not": F}

An attribute that an event does not have fits nothing. Booleans and integers are compared in their text form. Several
dialects in one object must all fit, and a list of filters is `all` of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.events import CloudEvent, attribute_texts

MOST_DEPTH: Final = 16
MOST_CLAUSES: Final = 256
MOST_TEXT: Final = 2048

Anchor = tuple[str, str]
"""An attribute and the text that it must have."""

_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")

Test = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter. `anchors` must all hold in every event that it matches, so that it can be found by them."""

    document: Any
    anchors: tuple[Anchor, ...]
    fits: Test
    """Whether attributes, in their text form, pass."""

    def matches(self, event: CloudEvent) -> bool:
        """Whether the event passes."""
        return self.fits(attribute_texts(event))


def compile_filter(document: Any) -> Filter:
    """Compile a filter as JSON has it. Raises `FilterInvalid` with a JSON pointer to what is wrong."""
    return Filter(document, *_Compiler().compile(document, "", 0))


_Compiled = tuple[tuple[Anchor, ...], Test]


class _Compiler:
    def __init__(self) -> None:
        self._clauses = 0

    def compile(self, document: Any, pointer: str, depth: int) -> _Compiled:
        if depth > MOST_DEPTH:
            raise FilterInvalid(f"filters are nested more than {MOST_DEPTH} deep", pointer=pointer)
        if isinstance(document, list):
            return self._all(document, pointer, depth)
        if not isinstance(document, dict) or not document:
            raise FilterInvalid('a filter is an object such as {"exact": {"type": "…"}}', pointer=pointer)
        parts = [self._dialect(name, body, f"{pointer}/{_step(name)}", depth) for name, body in document.items()]
        return _both(parts)

    def _dialect(self, name: str, body: Any, pointer: str, depth: int) -> _Compiled:
        if name in _COMPARISONS:
            return self._attributes(name, body, pointer)
        if name == "all":
            return self._all(body, pointer, depth)
        if name == "any":
            tests = [test for _, test in self._list(body, pointer, depth)]
            return (), lambda texts: any(test(texts) for test in tests)
        if name == "not":
            _, test = self.compile(body, pointer, depth + 1)
            return (), lambda texts: not test(texts)
        known = ", ".join((*_COMPARISONS, "all", "any", "not"))
        raise FilterInvalid(f"unknown dialect {name[:40]!r}; known: {known}", pointer=pointer)

    def _all(self, body: Any, pointer: str, depth: int) -> _Compiled:
        return _both(self._list(body, pointer, depth))

    def _list(self, body: Any, pointer: str, depth: int) -> list[_Compiled]:
        if not isinstance(body, list) or not body:
            raise FilterInvalid("a list of at least one filter is needed here", pointer=pointer)
        return [self.compile(each, f"{pointer}/{place}", depth + 1) for place, each in enumerate(body)]

    def _attributes(self, dialect: str, body: Any, pointer: str) -> _Compiled:
        if not isinstance(body, dict) or not body:
            raise FilterInvalid(f"{dialect} takes an object of attributes and texts, at least one", pointer=pointer)
        for name, text in body.items():
            self._check_attribute(name, text, f"{pointer}/{_step(name)}")
        wanted = tuple(body.items())
        fits = _COMPARISONS[dialect]
        anchors = wanted if dialect == "exact" else ()
        return anchors, lambda texts: all(name in texts and fits(texts[name], text) for name, text in wanted)

    def _check_attribute(self, name: str, text: Any, pointer: str) -> None:
        self._clauses += 1
        if self._clauses > MOST_CLAUSES:
            raise FilterInvalid(f"a filter compares at most {MOST_CLAUSES} attributes", pointer=pointer)
        if name == "data" or not _ATTRIBUTE.fullmatch(name):
            raise FilterInvalid(
                f"{name[:40]!r} is not an attribute of an event: 1 to 20 characters of a-z and 0-9 (not `data`)",
                pointer=pointer,
            )
        if not isinstance(text, str) or not text or len(text) > MOST_TEXT:
            raise FilterInvalid(f"a text of 1 to {MOST_TEXT} characters is needed here", pointer=pointer)


_COMPARISONS: Final[dict[str, Callable[[str, str], bool]]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
}


def _both(parts: list[_Compiled]) -> _Compiled:
    if len(parts) == 1:
        return parts[0]
    tests = [test for _, test in parts]
    anchors = tuple(anchor for found, _ in parts for anchor in found)
    return anchors, lambda texts: all(test(texts) for test in tests)


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
