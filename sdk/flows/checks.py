"""What a schema cannot say about a definition: rules between fields, and between states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from headrace.sdk.flows.field_checks import (
    ELSEWHERE,
    Found,
    Place,
    at_most_one,
    described,
    error,
    exactly_one,
    parameters,
    path,
    reference,
    target,
    unknown,
    url,
    warning,
)
from headrace.sdk.flows.problems import Problem, Severity, did_you_mean, pointer
from headrace.sdk.flows.rule_checks import choice

_TYPES: Final = {
    "Action": "action",
    "Pass": "pass",
    "Wait": "wait",
    "Choice": "choice",
    "Fail": "fail",
    "ExpressionEval": "expressionEval",
    "CreateWebInput": "createWebInput",
    "AwaitWebInput": "awaitWebInput",
}
"""The types of states, and where the schema describes them."""

_ERRORS: Final = ("ActionUnableToRun", "ActionFailedException", "ActionTimeout", "States.Runtime", "States.ALL")


def checked(document: Mapping[str, Any]) -> Found:
    """All that is wrong between the fields of a definition. Fields of a wrong type are passed over."""
    yield from unknown((), document, described()["properties"])
    states = document.get("States")
    if not isinstance(states, dict):
        return
    names = [name for name in states if isinstance(name, str)]
    yield from target(("StartAt",), document.get("StartAt"), names)
    for name, state in states.items():
        place: Place = ("States", str(name))
        if not isinstance(name, str):
            yield error(place, f"the name {name!r} is no text; put it in quotes")
        elif isinstance(state, dict):
            yield from _state(place, state, names)
    yield from _unreachable(document.get("StartAt"), states)


def _state(place: Place, state: Mapping[str, Any], names: Sequence[str]) -> Found:
    kind = state.get("Type")
    if not isinstance(kind, str):
        if "Type" in state:
            yield error((*place, "Type"), f"{kind!r:.80} is no type (there are: {', '.join(_TYPES)})")
        return
    if kind not in _TYPES:
        advice = f"; {ELSEWHERE[kind]}" if kind in ELSEWHERE else did_you_mean(kind, _TYPES)
        yield error((*place, "Type"), f"there is no type {kind!r}{advice} (there are: {', '.join(_TYPES)})")
        return
    yield from unknown(place, state, described()["$defs"][_TYPES[kind]]["properties"])
    if kind not in ("Choice", "Fail"):
        yield from _what_follows(place, state, names)
    yield from _paths(place, state)
    yield from _catchers(place, state, names)
    yield from _CHECKS[kind](place, state, names)


def _what_follows(place: Place, state: Mapping[str, Any], names: Sequence[str]) -> Found:
    ends = state.get("End") is True
    if ends and "Next" in state:
        yield error(place, "'Next' and 'End' are both there; a state has one of them")
    elif "Next" not in state and state.get("End") is False:
        yield error((*place, "End"), "'End' is true, or it is left out and there is a 'Next'")
    elif not ends and "Next" not in state:
        yield error(place, "it says nothing of what follows: give 'Next' a state, or set 'End' to true")
    yield from target((*place, "Next"), state.get("Next"), names)


def _action(place: Place, state: Mapping[str, Any], _names: Sequence[str]) -> Found:
    yield from exactly_one(place, state, ("ActionUrl", "Handler"))
    yield from exactly_one(place, state, ("Parameters", "InputPath"))
    yield from url((*place, "ActionUrl"), state.get("ActionUrl"))
    yield from _handler((*place, "Handler"), state.get("Handler"))
    yield from _replaces_the_state(place, state)


def _handler(place: Place, handler: Any) -> Found:
    if isinstance(handler, str) or (isinstance(handler, dict) and handler.get("Type") == "RegisteredAPI"):
        if isinstance(handler, dict) and "Id" not in handler:
            yield error(place, "'Id' is missing: it says which registered API is called")
        problem = "a registered API lives in the Flows service alone; only action providers run from here"
        yield Problem(pointer=pointer(*place), problem=problem, severity=Severity.UNSUPPORTED)
    elif isinstance(handler, dict):
        yield from unknown(place, handler, described()["$defs"]["handler"]["properties"])
        if handler.get("Type") == "ActionProvider" and "Url" not in handler:
            yield error(place, "'Url' is missing: it says which action provider is called")
        yield from url((*place, "Url"), handler.get("Url"))


def _pass(place: Place, state: Mapping[str, Any], _names: Sequence[str]) -> Found:
    yield from at_most_one(place, state, ("Parameters", "InputPath", "Result"))


def _wait(place: Place, state: Mapping[str, Any], _names: Sequence[str]) -> Found:
    yield from exactly_one(place, state, ("Seconds", "SecondsPath", "Timestamp", "TimestampPath"))


def _fail(place: Place, state: Mapping[str, Any], _names: Sequence[str]) -> Found:
    yield from at_most_one(place, state, ("Error", "ErrorPath"))
    yield from at_most_one(place, state, ("Cause", "CausePath"))


def _web_input(place: Place, state: Mapping[str, Any], _names: Sequence[str]) -> Found:
    yield from exactly_one(place, state, ("Parameters", "InputPath"))
    problem = f"{state['Type']} asks people in the Flows service's web application; it cannot run from here"
    yield Problem(pointer=pointer(*place, "Type"), problem=problem, severity=Severity.UNSUPPORTED)


def _catchers(place: Place, state: Mapping[str, Any], names: Sequence[str]) -> Found:
    catchers = state.get("Catch")
    for number, catcher in enumerate(catchers if isinstance(catchers, list) else ()):
        if not isinstance(catcher, dict):
            continue
        below = (*place, "Catch", number)
        yield from unknown(below, catcher, described()["$defs"]["catcher"]["properties"])
        yield from target((*below, "Next"), catcher.get("Next"), names)
        yield from reference((*below, "ResultPath"), catcher.get("ResultPath"))
        if "ResultPath" not in catcher:
            yield warning(below, "without 'ResultPath' the exception replaces the whole state")
        errors = catcher.get("ErrorEquals")
        for index, name in enumerate(errors if isinstance(errors, list) else ()):
            meant = did_you_mean(name, _ERRORS) if isinstance(name, str) and name not in _ERRORS else ""
            if meant:
                yield warning((*below, "ErrorEquals", index), f"nothing raises {name!r}{meant}")


def _replaces_the_state(place: Place, state: Mapping[str, Any]) -> Found:
    if "ResultPath" not in state and "Next" in state:
        yield warning(place, "without 'ResultPath' the result replaces the whole state, the input included")


def _paths(place: Place, state: Mapping[str, Any]) -> Found:
    for name in ("InputPath", "SecondsPath", "TimestampPath", "ErrorPath", "CausePath"):
        yield from path((*place, name), state.get(name))
    yield from reference((*place, "ResultPath"), state.get("ResultPath"))
    yield from parameters((*place, "Parameters"), state.get("Parameters"))


def _unreachable(start: Any, states: Mapping[str, Any]) -> Found:
    if not isinstance(start, str) or start not in states:
        return
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in states:
            continue
        reached.add(name)
        if isinstance(states[name], dict):
            waiting += _followers(states[name])
    for name in states:
        if isinstance(name, str) and name not in reached:
            yield error(("States", name), "no way leads to this state")


def _followers(state: Mapping[str, Any]) -> list[str]:
    choices, catchers = state.get("Choices"), state.get("Catch")
    below = [*(choices if isinstance(choices, list) else ()), *(catchers if isinstance(catchers, list) else ())]
    named = [state.get("Next"), state.get("Default"), *(each.get("Next") for each in below if isinstance(each, dict))]
    return [name for name in named if isinstance(name, str)]


def _nothing(_place: Place, _state: Mapping[str, Any], _names: Sequence[str]) -> Found:
    return iter(())


_CHECKS: Final[Mapping[str, Callable[[Place, Mapping[str, Any], Sequence[str]], Found]]] = {
    "Action": _action,
    "Pass": _pass,
    "Wait": _wait,
    "Choice": choice,
    "Fail": _fail,
    "ExpressionEval": _nothing,
    "CreateWebInput": _web_input,
    "AwaitWebInput": _web_input,
}
