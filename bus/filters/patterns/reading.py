"""JSON as a tree that knows where each value stands, and keeps what a dict would lose: repeated keys, order, digits."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from headrace.bus.errors import InvalidPattern

MOST_DEPTH: Final = 32

Kind = Literal["object", "array", "string", "number", "word"]

_decode = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: Final = {"true": True, "false": False, "null": None}
_WORD = re.compile("true|false|null")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: its JSON pointer, and line and column (from 1) when there is a text."""

    pointer: str
    line: int | None = None
    column: int | None = None

    def refuse(self, problem: str) -> InvalidPattern:
        """The error that says what is wrong here."""
        return InvalidPattern(problem, pointer=self.pointer, line=self.line, column=self.column)


@dataclass(frozen=True, slots=True)
class Node:
    """One value. `value` is a list of pairs (object), a list of nodes (array), a text, the digits of a number, or True,
    False or None (word)."""

    kind: Kind
    value: Any
    place: Place


def read(source: str | bytes | dict[str, Any]) -> Node:
    """A pattern's tree, from text or from what a JSON parser made of it. Raises `InvalidPattern` with the position."""
    if isinstance(source, dict):
        return _of_value(source, "", 0)
    if isinstance(source, bytes):
        try:
            source = source.decode()
        except UnicodeDecodeError as error:
            raise InvalidPattern(f"not UTF-8: {error}") from None
    if not isinstance(source, str):
        raise InvalidPattern(f"a pattern is a JSON text or a dict, not a {type(source).__name__}")
    return _Text(source).read()


class _Text:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read(self) -> Node:
        node = self._value("", 0)
        self._skip()
        if self._at < len(self._text):
            raise self._place("").refuse("nothing may come after the pattern")
        return node

    def _value(self, pointer: str, depth: int) -> Node:
        self._skip()
        place = self._place(pointer)
        if depth > MOST_DEPTH:
            raise place.refuse(f"nested more than {MOST_DEPTH} deep")
        match self._text[self._at : self._at + 1]:
            case "{":
                return Node("object", self._pairs(pointer, depth), place)
            case "[":
                return Node("array", self._elements(pointer, depth), place)
            case '"':
                return Node("string", self._string(place), place)
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return Node("number", number.group(), place)
        if word := _WORD.match(self._text, self._at):
            self._at = word.end()
            return Node("word", _WORDS[word.group()], place)
        raise place.refuse("a JSON value is needed here" if self._at < len(self._text) else "the text ends too early")

    def _pairs(self, pointer: str, depth: int) -> list[tuple[str, Node]]:
        pairs: list[tuple[str, Node]] = []
        self._at += 1
        while not self._closes("}", first=not pairs, pointer=pointer):
            self._skip()
            place = self._place(pointer)
            if not self._text.startswith('"', self._at):
                raise place.refuse("a name in double quotes is needed here")
            name = self._string(place)
            self._expect(":", pointer)
            pairs.append((name, self._value(f"{pointer}/{step(name)}", depth + 1)))
        return pairs

    def _elements(self, pointer: str, depth: int) -> list[Node]:
        elements: list[Node] = []
        self._at += 1
        while not self._closes("]", first=not elements, pointer=pointer):
            elements.append(self._value(f"{pointer}/{len(elements)}", depth + 1))
        return elements

    def _closes(self, end: str, *, first: bool, pointer: str) -> bool:
        self._skip()
        if self._text.startswith(end, self._at):
            self._at += 1
            return True
        if not first:
            self._expect(",", pointer)
        return False

    def _expect(self, sign: str, pointer: str) -> None:
        self._skip()
        if not self._text.startswith(sign, self._at):
            raise self._place(pointer).refuse(f"{sign!r} is needed here")
        self._at += 1

    def _string(self, place: Place) -> str:
        try:
            value, self._at = _decode(self._text, self._at)
        except json.JSONDecodeError as error:
            raise place.refuse(f"not a JSON text: {error.msg}") from None
        return str(value)

    def _skip(self) -> None:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at

    def _place(self, pointer: str) -> Place:
        line = self._text.count("\n", 0, self._at) + 1
        return Place(pointer, line, self._at - self._text.rfind("\n", 0, self._at))


def _of_value(value: Any, pointer: str, depth: int) -> Node:
    place = Place(pointer)
    if depth > MOST_DEPTH:
        raise place.refuse(f"nested more than {MOST_DEPTH} deep")
    match value:
        case None | bool():
            return Node("word", value, place)
        case str():
            return Node("string", value, place)
        case int() | float() if math.isfinite(value):
            return Node("number", repr(value), place)
        case list() | tuple():
            elements = [_of_value(each, f"{pointer}/{index}", depth + 1) for index, each in enumerate(value)]
            return Node("array", elements, place)
        case dict() if all(isinstance(name, str) for name in value):
            pairs = [(name, _of_value(each, f"{pointer}/{step(name)}", depth + 1)) for name, each in value.items()]
            return Node("object", pairs, place)
        case _:
            raise place.refuse(f"JSON has no such value: {type(value).__name__}")


def plain(node: Node) -> Any:
    """The value as a JSON parser would have made it, for people to read."""
    match node.kind:
        case "object":
            return {name: plain(each) for name, each in node.value}
        case "array":
            return [plain(each) for each in node.value]
        case "number":
            return json.loads(node.value)
        case _:
            return node.value


def step(name: str) -> str:
    """A name as one step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
