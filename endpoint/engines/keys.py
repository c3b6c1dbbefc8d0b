"""Settings read from a mapping: known keys of the right types, or problems that name the key and what to do."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_type_hints

import msgspec

from headrace.endpoint.errors import EngineSettingsInvalid, SettingProblem

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Settings whose fields are keys of a file; `synonyms` are further names of some of them.

    `refused` are keys that files from elsewhere have, with what to do about each.
    """

    synonyms: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, str]] = {}


S = TypeVar("S", bound=Keys)


class Reader:
    """Reads settings and collects what is wrong with them, so that all of it can be told at once."""

    def __init__(self) -> None:
        self.problems: list[SettingProblem] = []

    def read(self, kind: type[S], mapping: Mapping[Any, Any], path: Path, **read: Any) -> S | None:
        """Settings of this kind, or None and problems. `read` are fields that the caller has read already."""
        found: dict[str, Any] = dict(read)
        types = hints(kind)
        before = len(self.problems)
        for key, value in mapping.items():
            name = kind.synonyms.get(key, key)
            if name in kind.refused:
                self.problem((*path, key), kind.refused[name])
            elif name not in types:
                self.unknown(path, key, key_names(kind))
            elif name in found and name not in read:
                self.problem((*path, key), f"means the same as '{name}', which is there as well; remove one of them")
            elif name not in read and value is not None:
                self._convert(found, name, value, types[name], (*path, key))
        missing = [
            field.name
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and field.name not in found
            and mapping.get(field.name) is None
        ]
        for name in missing:
            self.problem(path, f"the key '{name}' is missing")
        return kind(**found) if len(self.problems) == before else None

    def mapping(self, value: Any, path: Path) -> Mapping[Any, Any]:
        """The value, which must have keys of its own; an empty one and a problem otherwise."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.problem(path, f"expected `key: value` lines, not {shown(value)}")
            return {}
        return value

    def choice(self, value: Any, names: Iterable[str], path: Path) -> str | None:
        """The value, which must be one of these names."""
        names = list(names)
        if isinstance(value, str) and value in names:
            return value
        self.problem(path, f"{shown(value)} is none of them; {advice(str(value), names, 'it can be')}")
        return None

    def unknown(self, path: Path, key: Any, known: Iterable[str]) -> None:
        """Tell of a key that means nothing here."""
        self.problem((*path, str(key)), f"unknown key '{key}'; {advice(str(key), list(known), 'the keys are')}")

    def problem(self, path: Path, problem: str) -> None:
        """Tell of a problem."""
        self.problems.append(SettingProblem(path, problem))

    def finish(self) -> None:
        """Raises `EngineSettingsInvalid` when there were problems."""
        if self.problems:
            raise EngineSettingsInvalid(self.problems)

    def _convert(self, found: dict[str, Any], name: str, value: Any, kind: Any, path: Path) -> None:
        try:
            found[name] = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self.problem(path, f"{shown(value)} does not fit: {_decapitalised(str(error))}")


def hints(kind: type[Keys]) -> dict[str, Any]:
    """The keys of settings with their types."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if name in names}


def key_names(kind: type[Keys]) -> list[str]:
    """All names that a file may use."""
    return [*hints(kind), *kind.synonyms]


def advice(name: str, known: list[str], otherwise: str) -> str:
    """Which of the known names may have been meant, or all of them."""
    likely = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{likely[0]}'?" if likely else f"{otherwise} {', '.join(known)}"


def shown(value: Any) -> str:
    """A value for people, not too long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _decapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
