"""Reads a definition from JSON or YAML, and knows on which line each part of it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headrace.bus.plain_yaml import plain_loader
from headrace.sdk.flows.errors import DefinitionInvalid
from headrace.sdk.flows.problems import Problem, pointer

_MOST_PARTS: Final = 200_000


@dataclass(frozen=True, slots=True)
class Written:
    """A document as it was written: its value, its name for people, and what it was read from."""

    value: Any
    name: str = "the definition"
    text: str | None = field(default=None, repr=False)

    def lines(self) -> Mapping[str, int]:
        """The line of each place, by its JSON pointer; empty where the lines cannot be told."""
        return {place: line for place, line, _ in _places(self.text)} if self.text is not None else {}


def read_file(path: Path) -> Written:
    """A file's document. Raises `DefinitionInvalid`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionInvalid(str(path), (Problem(pointer="", problem=f"it cannot be read: {error}"),)) from None
    return read_text(text, name=str(path))


def read_text(text: str, *, name: str) -> Written:
    """The document of a JSON or YAML text. Raises `DefinitionInvalid`, with the line."""
    doubled: list[str] = []
    try:
        if text.lstrip().startswith(("{", "[")):
            value = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, doubled))
        else:
            value = _yaml(text, name)
            doubled = ["?"]
    except json.JSONDecodeError as error:
        raise _unreadable(name, f"this is not JSON: {error.msg}, column {error.colno}", error.lineno) from None
    except RecursionError:
        raise _unreadable(name, "it is nested too deeply", None) from None
    except ValueError as error:
        raise _unreadable(name, f"this cannot be read: {error}", None) from None
    if doubled:
        problems = [
            Problem(pointer=place, line=line, problem=f"the key {place.rpartition('/')[2]!r} is there twice")
            for place, line, again in _places(text)
            if again
        ]
        if problems:
            raise DefinitionInvalid(name, tuple(problems))
    if _size(value) > _MOST_PARTS:
        raise _unreadable(name, f"it has more than {_MOST_PARTS} parts, or aliases that lead in a circle", None)
    return Written(value, name, text)


def _size(value: Any) -> int:
    """How many parts a document has, aliases counted each time; it stops counting when there are too many."""
    parts, waiting = 0, [value]
    while waiting and parts <= _MOST_PARTS:
        each = waiting.pop()
        parts += 1
        waiting += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
    return parts


def _object(pairs: list[tuple[str, Any]], doubled: list[str]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        doubled.extend(value)
    return value


def _yaml(text: str, name: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=plain_loader())  # noqa: S506 - it is the safe loader, with less
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _unreadable(
            name, f"this is neither JSON nor YAML: {error.problem}", mark.line + 1 if mark else None
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _unreadable(name, f"this is neither JSON nor YAML: {error}", None) from None


def _unreadable(name: str, problem: str, line: int | None) -> DefinitionInvalid:
    return DefinitionInvalid(name, (Problem(pointer="", problem=problem, line=line),))


def _places(text: str) -> Iterator[tuple[str, int, bool]]:
    """Each place of a text: its pointer, its line, and whether its key was there before."""
    import yaml

    try:
        # JSON is YAML, nearly: where it is not, there are no lines.
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        return
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), root)]
    visited = set()
    while waiting:
        place, node = waiting.pop()
        if id(node) in visited:
            continue  # an alias
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                below = (*place, str(key.value))
                yield pointer(*below), key.start_mark.line + 1, below in seen
                seen.add(below)
                waiting.append((below, value))
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                yield pointer(*place, number), value.start_mark.line + 1, False
                waiting.append(((*place, number), value))
