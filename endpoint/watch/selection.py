"""Which files of a folder count."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from headrace.endpoint.watch.rules import FolderRule

_Part = re.Pattern[str] | None


class Selection:
    """Answers for paths below the folder, with `/` between their parts."""

    def __init__(self, rule: FolderRule) -> None:
        self._hidden = rule.hidden
        self._recursive = rule.recursive
        self._include = any_of(rule.include) if rule.include else None
        self._exclude = any_of(rule.exclude)
        self._temporary = any_of(rule.temporary)
        self._markers = Markers(rule.marker) if rule.complete == "marker" else None

    @property
    def markers(self) -> Markers | None:
        """How markers are called, where the rule goes by them."""
        return self._markers

    def takes(self, path: str) -> bool:
        """Whether a file of this name is announced, once it is complete."""
        name = path.rpartition("/")[2]
        if not self._hidden and name.startswith("."):
            return False
        if self._markers is not None and self._markers.is_marker(name):
            return False
        if self._temporary(path) or self._exclude(path):
            return False
        return self._include is None or self._include(path)

    def enters(self, path: str) -> bool:
        """Whether files in this directory may count."""
        if not self._recursive or (not self._hidden and path.rpartition("/")[2].startswith(".")):
            return False
        return not (self._temporary(path) or self._exclude(path))


class Markers:
    """Names of the files that say that others are complete."""

    def __init__(self, form: str) -> None:
        self._form = form
        placeholder = next((each for each in ("{name}", "{stem}") if each in form), None)
        self._before, _, self._after = form.partition(placeholder) if placeholder else (form, "", "")
        self._is_fixed = placeholder is None

    def is_marker(self, name: str) -> bool:
        """Whether this is the name of a marker."""
        if self._is_fixed:
            return name == self._form
        least = len(self._before) + len(self._after)
        return len(name) > least and name.startswith(self._before) and name.endswith(self._after)

    def marker_of(self, name: str) -> str:
        """The name of the marker of a file."""
        stem = name.rpartition(".")[0] or name
        return self._form.replace("{name}", name).replace("{stem}", stem)


def any_of(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a path fits one of these patterns.

    A pattern without `/` is about the last part of the path, one with `/` about all of it. `*`, `?` and `[...]` stand
    for what is within one part, `**` for any number of parts.
    """
    compiled = tuple(_compiled(pattern) for pattern in patterns)
    return lambda path: any(fits(path) for fits in compiled)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Callable[[str], bool]:
    if "/" not in pattern:
        one = re.compile(fnmatch.translate(pattern))
        return lambda path: one.match(path.rpartition("/")[2]) is not None
    wanted = tuple(
        None if part == "**" else re.compile(fnmatch.translate(part)) for part in pattern.strip("/").split("/")
    )
    return lambda path: _fits(path.split("/"), wanted)


def _fits(parts: Sequence[str], wanted: Sequence[_Part]) -> bool:
    # Which beginnings of the pattern the parts so far can be: never more of them than the pattern is long.
    at = _skipped({0}, wanted)
    for part in parts:
        after = set()
        for place in at:
            if place == len(wanted):
                continue
            pattern = wanted[place]
            if pattern is None:
                after.add(place)
            elif pattern.match(part):
                after.add(place + 1)
        at = _skipped(after, wanted)
    return len(wanted) in at


def _skipped(places: set[int], wanted: Sequence[_Part]) -> set[int]:
    """These places, and those behind a `**` that stands for nothing."""
    found = set(places)
    for place in sorted(places):
        step = place
        while step < len(wanted) and wanted[step] is None:
            step += 1
            found.add(step)
    return found
