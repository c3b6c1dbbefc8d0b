"""A YAML file that a person wrote: its values, and the line of each of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from headrace.endpoint.errors import ConfigInvalid
from headrace.schemas import SchemaViolation, schema, validate

NO_EFFECT: Final = "x-no-effect"
"""The keyword of a schema for a key of Globus Compute that nothing is lost without, and why."""

REFUSED: Final = "x-refused"
"""The keyword of a schema for a key of Globus Compute that somebody relies on, and what to do instead."""


def read_text(path: Path) -> str:
    """A file's text. Raises `ConfigInvalid` when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class YamlFile:
    """What a YAML file says."""

    name: str
    document: dict[str, Any]
    lines: Mapping[str, int]
    """The line of each JSON pointer into the document."""

    @classmethod
    def parse(cls, text: str, *, name: str) -> YamlFile:
        """Read a text. Raises `ConfigInvalid`, naming the line, when it is not YAML with `key: value` lines."""
        return cls(name, *_load(text, name))

    def at(self, pointer: str) -> str:
        """Where a pointer's value stands: `line 3`. What is not there itself is where it is missing."""
        while pointer and pointer not in self.lines:
            pointer = pointer.rpartition("/")[0]
        return f"line {self.lines.get(pointer, 1)}"

    def check(self, schema_name: str) -> None:
        """Raise `ConfigInvalid`, with each unknown key and each wrong value, when it is not as its schema says."""
        described = schema(schema_name)
        self.refuse([*self._unknown_keys(described, self.document, ""), *self._refused_keys(described)])
        try:
            validate(schema_name, self.document)
        except SchemaViolation as error:
            self.refuse(
                [
                    f"{self.at(violation.pointer)}: {violation.pointer.lstrip('/')}: {violation.problem}"
                    for violation in error.violations
                ]
            )

    def without_effect(self, schema_name: str) -> list[str]:
        """The keys that are known and do nothing here, each with its line and why."""
        known = schema(schema_name)["properties"]
        return [
            f"{self.at('/' + escaped(key))}: {key} has no effect: {known[key][NO_EFFECT]}"
            for key in self.document
            if NO_EFFECT in known.get(key, ())
        ]

    def refuse(self, problems: Sequence[str]) -> None:
        """Raise `ConfigInvalid` with all of these, if there are any; each begins with its line."""
        if problems:
            raise ConfigInvalid("\n".join(f"{self.name}, {problem}" for problem in problems))

    def _refused_keys(self, described: Mapping[str, Any]) -> Iterator[str]:
        for key in self.document:
            why = described.get("properties", {}).get(key, {}).get(REFUSED)
            if why is not None:
                where = self.at("/" + escaped(key))
                yield f"{where}: {key}: Headrace does not take this key of Globus Compute here: {why}"

    def _unknown_keys(self, described: Mapping[str, Any], value: Any, pointer: str) -> Iterator[str]:
        known = described.get("properties")
        if known is None or not isinstance(value, Mapping):
            return
        for key, below in value.items():
            place = f"{pointer}/{escaped(str(key))}"
            if key in known:
                yield from self._unknown_keys(known[key], below, place)
            elif described.get("additionalProperties") is False:
                shown = place.lstrip("/")
                yield f"{self.at(place)}: unknown key '{shown}'; {advice(str(key), list(known))}"


def advice(word: str, known: Sequence[str]) -> str:
    """What somebody may have meant who wrote an unknown word."""
    likely = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{likely[0]}'?" if likely else f"the keys are {', '.join(known)}"


def escaped(key: str) -> str:
    """A key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _load(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigInvalid(f"{name}, {line}not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # `2026-13-45` looks like a date and is none; an alias may lead to itself.
        raise ConfigInvalid(f"{name}, not valid YAML: {error}") from error
    if root is None or document is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigInvalid(f"{name}, line {root.start_mark.line + 1}: expected `key: value` lines")
    lines: dict[str, int] = {}
    try:
        _note_lines(root, "", lines, name)
    except RecursionError:
        raise ConfigInvalid(f"{name}, not valid YAML here: an alias leads to itself") from None
    # What a key that is not a text (`1:`, `yes:`) would break further on is an unknown key like any other.
    # A key without a value is as if it were not there: that is what `setup: {{ setup|default() }}` gives.
    return {str(key): value for key, value in document.items() if value is not None}, lines


def _note_lines(node: yaml.Node, pointer: str, lines: dict[str, int], name: str) -> None:
    lines.setdefault(pointer, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{pointer}/{escaped(str(key.value))}"
            if below in lines:
                # YAML would let the last one win without a word.
                raise ConfigInvalid(
                    f"{name}, line {key.start_mark.line + 1}: the key '{key.value}' is there twice, "
                    f"first in line {lines[below]}"
                )
            lines[below] = key.start_mark.line + 1
            _note_lines(value, below, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            _note_lines(item, f"{pointer}/{place}", lines, name)
