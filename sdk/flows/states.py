"""What states do with the data of a run, apart from running actions and waiting: nothing here has an effect outside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from headrace.sdk.flows.choices import holds
from headrace.sdk.flows.errors import PathMissing, StateFailed
from headrace.sdk.flows.parameters import CONTEXT, RUNTIME, Names, evaluated, value_at, without_context
from headrace.sdk.flows.paths import Path
from headrace.sdk.flows.timestamps import moment

LONGEST_WAIT_S: Final = 31_536_000

State = Mapping[str, Any]


def names_of(data: Any, context: Mapping[str, Any]) -> Any:
    """What paths and expressions see of a run."""
    return {**data, CONTEXT: dict(context)} if isinstance(data, dict) else data


def input_of(state: State, names: Any) -> Any:
    """What a state works on: its parameters, what is at its InputPath, its Result, or everything.

    Raises `StateFailed`.
    """
    if "Parameters" in state:
        return evaluated(state["Parameters"], names if isinstance(names, dict) else {})
    if "InputPath" in state:
        return value_at(state["InputPath"], names, field="InputPath")
    if "Result" in state:
        return state["Result"]
    return without_context(names)


def stored(state: State, data: Any, result: Any) -> Any:
    """The data with a result at the state's ResultPath. Raises `StateFailed`."""
    text = state.get("ResultPath", "$")
    try:
        return Path.parse(text).put(data, result)
    except PathMissing as error:
        raise StateFailed(RUNTIME, f"The result cannot be put at the ResultPath '{text}': {error}") from None


def chosen(state: State, names: Names) -> str:
    """The state that follows a Choice. Raises `StateFailed`."""
    for rule in state["Choices"]:
        if holds(rule, names):
            return str(rule["Next"])
    if "Default" in state:
        return str(state["Default"])
    raise StateFailed("States.NoChoiceMatched", "No rule of the Choice state is true, and it has no Default.")


def waiting_until(state: State, names: Any) -> float:
    """When a Wait that begins now is over, in seconds since 1970. Raises `StateFailed`."""
    if "Seconds" in state:
        return time.time() + float(state["Seconds"])
    if "SecondsPath" in state:
        seconds = value_at(state["SecondsPath"], names, field="SecondsPath")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_WAIT_S:
            problem = f"The value at '{state['SecondsPath']}' is no number of seconds from 0 to {LONGEST_WAIT_S}."
            raise StateFailed(RUNTIME, problem)
        return time.time() + seconds
    field = "Timestamp" if "Timestamp" in state else "TimestampPath"
    text = state[field] if field == "Timestamp" else value_at(state[field], names, field=field)
    until = moment(text)
    if until is None:
        raise StateFailed(RUNTIME, f"The {field} of the Wait state is no timestamp such as 2026-05-01T12:00:00Z.")
    return until.timestamp()


def failure(state: State, names: Any) -> StateFailed:
    """What a Fail state says. Raises `StateFailed` when its paths lead nowhere."""
    said = {}
    for field in ("Error", "Cause"):
        if f"{field}Path" in state:
            said[field] = value_at(state[f"{field}Path"], names, field=f"{field}Path")
        else:
            said[field] = state.get(field, "")
    return StateFailed(str(said["Error"] or "Fail"), said["Cause"])


def catcher_of(state: State, error: StateFailed) -> Mapping[str, Any] | None:
    """The first entry of Catch that names this exception."""
    for catcher in state.get("Catch", ()):
        if error.name in catcher["ErrorEquals"] or "States.ALL" in catcher["ErrorEquals"]:
            found: Mapping[str, Any] = catcher
            return found
    return None
