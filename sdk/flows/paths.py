"""Paths into a flow's state: `$`, `$.a.b[0]`, `$['a b']`, and those that find many values.

What finds exactly one place is a reference path: names and indices. Beyond those, `[*]`, `.*`, slices, several indices
and `..name` find many, and give a list of what they found. Filters (`[?(...)]`) are refused: an expression can choose.

A parser of our own instead of a library's: nine paths in ten are reference paths, a reference path must be told from
the others (ResultPath takes no other), must be written to without changing the document, and its mistakes are to be
told with their column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from headrace.sdk.flows.errors import PathInvalid, PathMissing

_NAME: Final = re.compile(r"[^\s.\[\]'\"*?@(),:`]+")
_QUOTED: Final = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_SLICE: Final = re.compile(r"(-?\d+)?\s*:\s*(-?\d+)?(?:\s*:\s*(-?\d+)?)?")
_NUMBER: Final = re.compile(r"-?\d+")
_MOST_CHARACTERS: Final = 4096


@dataclass(frozen=True, slots=True)
class Field:
    """`.name` or `['name']`."""

    name: str

    def of(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dict) and self.name in value:
            yield value[self.name]


@dataclass(frozen=True, slots=True)
class Index:
    """`[0]`; negative numbers count from the end."""

    number: int

    def of(self, value: Any) -> Iterator[Any]:
        if isinstance(value, list) and -len(value) <= self.number < len(value):
            yield value[self.number]


@dataclass(frozen=True, slots=True)
class Every:
    """`[*]` or `.*`."""

    def of(self, value: Any) -> Iterator[Any]:
        yield from _children(value)


@dataclass(frozen=True, slots=True)
class Slice:
    """`[1:3]`."""

    bounds: tuple[int | None, int | None, int | None]

    def of(self, value: Any) -> Iterator[Any]:
        if isinstance(value, list):
            yield from value[slice(*self.bounds)]


@dataclass(frozen=True, slots=True)
class Several:
    """`[0, 2]` or `['a', 'b']`."""

    steps: tuple[Field | Index, ...]

    def of(self, value: Any) -> Iterator[Any]:
        for step in self.steps:
            yield from step.of(value)


@dataclass(frozen=True, slots=True)
class Anywhere:
    """`..name`: at any depth."""

    step: Field | Every

    def of(self, value: Any) -> Iterator[Any]:
        waiting = [value]
        while waiting:
            each = waiting.pop()
            yield from self.step.of(each)
            waiting += reversed(list(_children(each)))


Step = Field | Index | Every | Slice | Several | Anywhere


@dataclass(frozen=True, slots=True)
class Path:
    """A path that was read."""

    text: str
    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> Path:
        """Read a path. Raises `PathInvalid`, with the column."""
        return cls(text, tuple(_Reader(text).steps()))

    @property
    def is_reference(self) -> bool:
        """Whether it names one place, and never many."""
        return all(isinstance(step, Field | Index) for step in self.steps)

    def find(self, document: Any) -> Any:
        """What is there; a list of all that is found, when the path may find many. Raises `PathMissing`."""
        found = [document]
        for step in self.steps:
            found = [each for value in found for each in step.of(value)]
        if not self.is_reference:
            return found
        if not found:
            raise PathMissing(f"there is nothing at {self.text!r}")
        return found[0]

    def put(self, document: Any, value: Any) -> Any:
        """The document with a value at this place; the given one stays as it is, and missing objects are made.

        Raises `PathMissing` when something that is no object, or a list that is too short, stands in the way.
        """
        return self._put(document, value, 0)

    def _put(self, document: Any, value: Any, depth: int) -> Any:
        if depth == len(self.steps):
            return value
        step = self.steps[depth]
        if isinstance(step, Field) and isinstance(document, dict):
            return {**document, step.name: self._put(document.get(step.name, {}), value, depth + 1)}
        if isinstance(step, Index) and isinstance(document, list) and -len(document) <= step.number < len(document):
            copy = list(document)
            copy[step.number] = self._put(copy[step.number], value, depth + 1)
            return copy
        kind = (
            "an object"
            if isinstance(document, dict)
            else "a list"
            if isinstance(document, list)
            else repr(document)[:40]
        )
        raise PathMissing(f"nothing can be put at {self.text!r}: there is {kind} in its way")


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


class _Reader:
    """Reads one path from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def steps(self) -> Iterator[Step]:
        if len(self._text) > _MOST_CHARACTERS:
            raise PathInvalid(f"a path has at most {_MOST_CHARACTERS} characters; this one has {len(self._text)}")
        if not self._text.startswith("$"):
            raise PathInvalid(f"a path begins with '$', and {self._text!r:.80} does not")
        self._at = 1
        while self._at < len(self._text):
            yield self._step()

    def _step(self) -> Step:
        if self._took(".."):
            return Anywhere(Every() if self._took("*") else Field(self._name()))
        if self._took("."):
            if self._took("*"):
                return Every()
            # `$.a.['b c']` is how some write `$.a['b c']`.
            return self._bracket() if self._took("[") else Field(self._name())
        if self._took("["):
            return self._bracket()
        raise self._wrong("here a '.' or a '[' must follow")

    def _bracket(self) -> Step:
        self._skip_spaces()
        if self._took("*"):
            return self._closed(Every())
        if self._at < len(self._text) and self._text[self._at] == "?":
            raise self._wrong("filters are not taken here; an expression (`name.=`) can choose")
        found = _SLICE.match(self._text, self._at)
        if found:
            self._at = found.end()
            start, stop, step = (None if part is None else int(part) for part in found.groups())
            if step == 0:
                raise self._wrong("a slice cannot go on in steps of 0")
            return self._closed(Slice((start, stop, step)))
        steps = [self._key()]
        while self._took(","):
            steps.append(self._key())
        return self._closed(steps[0] if len(steps) == 1 else Several(tuple(steps)))

    def _key(self) -> Field | Index:
        self._skip_spaces()
        quoted = _QUOTED.match(self._text, self._at)
        number = _NUMBER.match(self._text, self._at)
        if quoted:
            self._at = quoted.end()
            inside = quoted[1] if quoted[1] is not None else quoted[2]
            key: Field | Index = Field(re.sub(r"\\(.)", r"\1", inside))
        elif number:
            self._at = number.end()
            key = Index(int(number[0]))
        else:
            raise self._wrong("between brackets stands a number, a name in quotes, '*' or a slice")
        self._skip_spaces()
        return key

    def _closed(self, step: Step) -> Step:
        self._skip_spaces()
        if not self._took("]"):
            raise self._wrong("a ']' is missing here")
        return step

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        if not found:
            raise self._wrong("a name is missing here; one with special characters is written ['like this']")
        self._at = found.end()
        return found[0]

    def _took(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _skip_spaces(self) -> None:
        while self._at < len(self._text) and self._text[self._at] == " ":
            self._at += 1

    def _wrong(self, problem: str) -> PathInvalid:
        return PathInvalid(f"{self._text!r:.200}, character {self._at + 1}: {problem}")
