"""Checks of single fields: URLs, paths, expressions, names of states, fields of which there may be one."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from headrace.bus.hosts import is_loopback
from headrace.schemas import schema
from headrace.sdk.flows.errors import PathInvalid
from headrace.sdk.flows.expressions import doubts_about, problem_of
from headrace.sdk.flows.parameters import PRIVATE, split_key, walk
from headrace.sdk.flows.paths import Field, Path
from headrace.sdk.flows.problems import Problem, Severity, did_you_mean, pointer

Place = tuple[str | int, ...]
Found = Iterator[Problem]

ELSEWHERE: Final = {
    "Task": "the Amazon States Language calls it Task; a flow has Action",
    "Parallel": "a flow runs one state after the other",
    "Map": "a flow runs one state after the other; one action may run many tasks",
    "Succeed": 'a flow has Pass with "End": true for it',
    "OutputPath": "a flow has ResultPath only",
    "ResultSelector": "a flow has none; an ExpressionEval state may follow",
    "Retry": "a flow has none; a Choice state may lead back",
    "TimeoutSeconds": "a flow has WaitTime for it",
    "Resource": "a flow has ActionUrl for it",
}
"""Words of the Amazon States Language that the Flows service does not take."""


def unusable(url: str) -> str | None:
    """Why no action provider can be called by this URL; None when one can."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    if not whole:
        return f"{url!r:.200} is no https:// URL"
    if parts.username is not None or parts.query or parts.fragment:
        return f"{parts.scheme}://{parts.hostname}…: a provider's URL has no user, no '?' and no '#'"
    return None


def is_safe(url: str) -> bool:
    """Whether a token may be sent there: over TLS, or to this machine itself."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def url(place: Place, url: Any) -> Found:
    """A URL of a provider."""
    if not isinstance(url, str):
        return
    problem = unusable(url)
    if problem is not None:
        yield error(place, problem)
    elif urlsplit(url).scheme == "http":
        yield warning(place, "the Flows service takes https:// only")


def parameters(place: Place, value: Any) -> Found:
    """The paths, expressions and names of parameters."""
    for at, kind, each in walk(value, place):
        yield from _parameter(at, kind, each)
    yield from _doubled(place, value)


def _parameter(place: Place, kind: str, value: Any) -> Found:
    what = "path" if kind == "$" else "expression"
    if not isinstance(value, str):
        yield error(place, f"a key that ends with '.{kind}' has a text, the {what}")
    elif kind == "$":
        yield from path(place, value)
    else:
        problem = problem_of(value)
        if problem is not None:
            yield error(place, problem)
        else:
            for doubt in doubts_about(value):
                yield warning(place, doubt)


def _doubled(place: Place, parameters: Any) -> Found:
    """Keys that give the same name, such as `a` and `a.$`; and keys that are no texts, which YAML has."""
    if isinstance(parameters, list):
        for number, each in enumerate(parameters):
            yield from _doubled((*place, number), each)
    if not isinstance(parameters, dict):
        return
    seen: dict[str, str] = {}
    for key, each in parameters.items():
        if not isinstance(key, str):
            yield error((*place, str(key)), f"the key {key!r} is no text; put it in quotes")
            continue
        name = split_key(key)[0]
        if name in seen:
            yield error((*place, key), f"{key!r} and {seen[name]!r} give the same name")
        seen[name] = key
        if key == PRIVATE and not (isinstance(each, list) and all(isinstance(one, str) for one in each)):
            yield error((*place, key), "it is a list of names")
        yield from _doubled((*place, key), each)


def path(place: Place, text: Any) -> Found:
    """A path, whatever it finds."""
    if isinstance(text, str) and text.startswith("$"):
        try:
            Path.parse(text)
        except PathInvalid as invalid:
            yield error(place, str(invalid))
    elif isinstance(text, str) and len(place) > 2 and place[2] == "Parameters":
        yield error(place, f"{text!r:.80} is no path: a path begins with '$'")


def reference(place: Place, text: Any) -> Found:
    """A path to where a result is put."""
    if not isinstance(text, str) or not text.startswith("$"):
        return
    try:
        read = Path.parse(text)
    except PathInvalid as invalid:
        yield error(place, str(invalid))
        return
    if not read.is_reference:
        yield error(place, f"{text!r} may lead to many places; a result is put at one")
    elif read.steps and read.steps[0] == Field("_context"):
        yield error(place, "'$._context' can be read only")


def target(place: Place, name: Any, names: Sequence[str]) -> Found:
    """The name of a state."""
    if isinstance(name, str) and name not in names:
        yield error(place, f"there is no state {name!r}{did_you_mean(name, names)}")


def exactly_one(place: Place, state: Mapping[str, Any], names: Sequence[str]) -> Found:
    """Fields of which one is needed, and no more."""
    yield from at_most_one(place, state, names)
    if not any(name in state for name in names):
        yield error(place, f"one of {_listed(names)} is needed, and there is none")


def at_most_one(place: Place, state: Mapping[str, Any], names: Sequence[str]) -> Found:
    """Fields of which there may be one."""
    there = [name for name in names if name in state]
    if len(there) > 1:
        yield error(place, f"{_listed(there)} are there together; a state has one of them")


def unknown(place: Place, document: Mapping[str, Any], known: Mapping[str, Any]) -> Found:
    """Fields that nobody knows."""
    for name in document:
        if name not in known:
            advice = f"; {ELSEWHERE[name]}" if name in ELSEWHERE else did_you_mean(str(name), known)
            yield error((*place, str(name)), f"there is no field {name!r} here{advice}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:-1])) + f" and {names[-1]!r}"


def error(place: Place, problem: str) -> Problem:
    """A mistake."""
    return Problem(pointer=pointer(*place), problem=problem)


def warning(place: Place, problem: str) -> Problem:
    """A doubt."""
    return Problem(pointer=pointer(*place), problem=problem, severity=Severity.WARNING)


@functools.cache
def described() -> dict[str, Any]:
    """The schema of definitions."""
    return schema("flow-definition")
