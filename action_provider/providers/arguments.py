"""From an action's body to the arguments of a call, as the input schema of the function says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

POSITIONAL: Final = "x-positional"
"""The schema's keyword that names, in order, the members that are passed by position."""
VARIADIC: Final = "x-variadic"
"""The schema's keyword that names the member whose items follow them."""


def arguments_of(schema: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """(positional, by name) of a body that the schema has accepted. What can be passed by name alone is."""
    rest = dict(body)
    positional: list[Any] = []
    for name in schema.get(POSITIONAL, ()):
        if name not in rest:
            # By position nothing can be left out: what may follow here goes by name as well.
            break
        positional.append(rest.pop(name))
    variadic = schema.get(VARIADIC)
    if isinstance(variadic, str) and variadic in rest:
        more = rest.pop(variadic)
        positional += more if isinstance(more, list) else [more]
    return positional, rest
