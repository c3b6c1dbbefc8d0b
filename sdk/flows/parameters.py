"""`Parameters`: constants, paths (`name.$`) and expressions (`name.=`), at any depth; and what must not be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from headrace.sdk.flows.errors import ExpressionFailed, ExpressionInvalid, PathInvalid, PathMissing, StateFailed
from headrace.sdk.flows.expressions import evaluate
from headrace.sdk.flows.paths import Path

PRIVATE: Final = "__Private_Parameters"
RUNTIME: Final = "States.Runtime"
CONTEXT: Final = "_context"
_HIDDEN_KEYS: Final = "_private"

Names = Mapping[str, Any]
"""What paths and expressions see: the state of the run, and `_context`."""


def split_key(key: str) -> tuple[str, str]:
    """The name that a key gives, and how: `$` for a path, `=` for an expression, nothing for a constant."""
    if key.endswith((".$", ".=")):
        return key[:-2], key[-1]
    return key, ""


def evaluated(parameters: Any, names: Names) -> Any:
    """The value of parameters. Raises `StateFailed` (`States.Runtime`)."""
    if isinstance(parameters, list):
        return [evaluated(each, names) for each in parameters]
    if not isinstance(parameters, dict):
        return parameters
    value = {}
    for key, each in parameters.items():
        name, kind = split_key(key)
        if kind == "$":
            value[name] = value_at(each, names, field=key)
        elif kind == "=":
            value[name] = _computed(each, names, field=key)
        elif key != PRIVATE:
            value[name] = evaluated(each, names)
    return value


def without_context(names: Any) -> Any:
    """The state alone."""
    return {key: value for key, value in names.items() if key != CONTEXT} if isinstance(names, dict) else names


def value_at(text: Any, names: Any, *, field: str) -> Any:
    """What a path of a definition finds. Raises `StateFailed` with the Flows service's words."""
    try:
        path = Path.parse(text)
        found = path.find(names)
        # The whole state has no context: that is only there to be named.
        return without_context(found) if not path.steps else found
    except PathMissing:
        problem = f"The path '{text}' specified for the field '{field}' could not be found in the state input."
        raise StateFailed(RUNTIME, problem) from None
    except (PathInvalid, AttributeError) as error:
        raise StateFailed(RUNTIME, f"The path '{text}' of the field '{field}' cannot be read: {error}") from None


def shown_parameters(parameters: Any, value: Any) -> Any:
    """The value of parameters without what `__Private_Parameters` names."""
    if isinstance(parameters, list) and isinstance(value, list):
        return [shown_parameters(one, other) for one, other in zip(parameters, value, strict=False)]
    if not isinstance(parameters, dict) or not isinstance(value, dict):
        return value
    below = {split_key(key)[0]: each for key, each in parameters.items() if not split_key(key)[1]}
    hidden = _private(parameters)
    return {name: shown_parameters(below.get(name), each) for name, each in value.items() if name not in hidden}


def _private(parameters: Mapping[str, Any]) -> set[str]:
    named = parameters.get(PRIVATE)
    # Both spellings are taken: `secret`, and `secret.$`.
    return {split_key(each)[0] for each in named if isinstance(each, str)} if isinstance(named, list) else set()


def shown_state(value: Any) -> Any:
    """The state, or a part of it, without the keys that begin with `_private`."""
    if isinstance(value, dict):
        return {key: shown_state(each) for key, each in value.items() if not key.startswith(_HIDDEN_KEYS)}
    if isinstance(value, list):
        return [shown_state(each) for each in value]
    return value


def _computed(text: Any, names: Names, *, field: str) -> Any:
    try:
        return evaluate(text, names)
    except (ExpressionFailed, ExpressionInvalid) as error:
        raise StateFailed(RUNTIME, f"The expression of the field '{field}' cannot be evaluated: {error}") from None


def walk(parameters: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
    """Every path (`$`) and expression (`=`) of parameters: its place, its kind, its text."""
    if isinstance(parameters, list):
        for number, each in enumerate(parameters):
            yield from walk(each, (*place, number))
    elif isinstance(parameters, dict):
        for key, each in parameters.items():
            kind = split_key(key)[1] if isinstance(key, str) else ""
            if kind:
                yield (*place, key), kind, each
            else:
                yield from walk(each, (*place, key))
