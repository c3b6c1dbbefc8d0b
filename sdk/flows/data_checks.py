"""Names that paths and expressions want of the state, and that nothing puts there.

Only the first name of each is looked at, and no order of states: what is doubted here is missing on every way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from headrace.sdk.flows.errors import PathInvalid
from headrace.sdk.flows.expressions import names_in
from headrace.sdk.flows.field_checks import Found, Place, warning
from headrace.sdk.flows.parameters import CONTEXT, walk
from headrace.sdk.flows.paths import Field, Path
from headrace.sdk.flows.problems import did_you_mean

_PATHS = ("InputPath", "SecondsPath", "TimestampPath", "ErrorPath", "CausePath")


def missing_names(document: Mapping[str, Any], given: Collection[str]) -> Found:
    """Doubts about names that are neither in the input (`given`) nor put into the state by any step."""
    states = document.get("States")
    states = (
        {name: state for name, state in states.items() if isinstance(state, dict)} if isinstance(states, dict) else {}
    )
    known = {CONTEXT, *given}
    for state in states.values():
        for put in _puts(state):
            if put is None:
                return  # it replaces the whole state: what is in there, nobody can say
            known.add(put)
    uses = [(place, name) for key, state in states.items() for place, name in _uses(("States", str(key)), state)]
    asked = {name for state in states.values() for name in _asked(state)}
    for place, name in dict.fromkeys(uses):
        if name not in known and name not in asked:
            yield warning(place, f"nothing puts {name!r} into the state{did_you_mean(name, known)}")


def _puts(state: Mapping[str, Any]) -> Iterator[str | None]:
    """The first name of each place where a state puts something; None for the whole state."""
    if state.get("Type") in ("Choice", "Wait", "Fail"):
        return
    catchers = state.get("Catch")
    for each in [state, *(catchers if isinstance(catchers, list) else ())]:
        if isinstance(each, dict) and not (each is state and _passes_on(state)):
            yield _first(each.get("ResultPath", "$"))


def _passes_on(state: Mapping[str, Any]) -> bool:
    """Whether it is a Pass that hands on the state as it is."""
    return state.get("Type") == "Pass" and not {"Parameters", "InputPath", "Result", "ResultPath"} & state.keys()


def _uses(place: Place, state: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for name in _PATHS:
        yield from _use((*place, name), state.get(name))
    for at, kind, text in walk(state.get("Parameters"), (*place, "Parameters")):
        if kind == "$":
            yield from _use(at, text)
        elif isinstance(text, str):
            yield from ((at, name) for name in sorted(names_in(text)))
    for at, rule in _rules(place, state):
        for name, text in rule.items():
            if name == "Variable" or name.endswith("Path"):
                yield from _use((*at, name), text)


def _use(place: Place, text: Any) -> Iterator[tuple[Place, str]]:
    name = _first(text)
    if name is not None:
        yield place, name


def _asked(state: Mapping[str, Any]) -> Iterator[str]:
    """Names whose presence a Choice asks for: they may be missing."""
    for _, rule in _rules((), state):
        name = _first(rule.get("Variable")) if "IsPresent" in rule else None
        if name is not None:
            yield name


def _rules(place: Place, state: Mapping[str, Any]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    rules = state.get("Choices")
    waiting: list[tuple[Place, Any]] = [
        ((*place, "Choices", number), rule) for number, rule in enumerate(rules if isinstance(rules, list) else ())
    ]
    while waiting:
        at, rule = waiting.pop()
        if isinstance(rule, dict):
            yield at, rule
            for name in ("And", "Or"):
                below = rule.get(name)
                waiting += [((*at, name, n), each) for n, each in enumerate(below if isinstance(below, list) else ())]
            waiting.append(((*at, "Not"), rule.get("Not")))


def _first(text: Any) -> str | None:
    """The first name of a path; None when there is none, or the path cannot be read."""
    try:
        steps = Path.parse(text).steps if isinstance(text, str) else ()
    except PathInvalid:
        return None
    return steps[0].name if steps and isinstance(steps[0], Field) else None
