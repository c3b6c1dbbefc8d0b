"""A user's options for an endpoint's configuration, checked before they come near a template."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from headrace.endpoint.configuration.templates import RESERVED
from headrace.endpoint.errors import OptionsInvalid
from headrace.schemas import SchemaViolation, validate_against

MOST_BYTES: Final = 65_536
MOST_DEPTH: Final = 32
_LARGEST_INTEGER: Final = 2**64


def check_options(options: Mapping[str, Any], described: Mapping[str, Any] | None) -> None:
    """Raise `OptionsInvalid`, naming each option that is wrong.

    `options` are JSON values, `described` is the endpoint's `user_config_schema.json`.
    """
    problems = list(_problems(options, "", 0))
    if not problems and len(json.dumps(options, ensure_ascii=False).encode()) > MOST_BYTES:
        problems = [f"all options together have more than {MOST_BYTES} bytes"]
    if not problems and described is not None:
        problems = list(_violations(options, described))
    if problems:
        raise OptionsInvalid("\n".join(problems))


def _problems(value: Any, name: str, depth: int) -> Iterator[str]:
    if depth > MOST_DEPTH:
        yield f"the option {name!r} is nested more than {MOST_DEPTH} deep"
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from _key_problems(key, name)
            yield from _problems(below, f"{name}/{key}" if name else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for place, below in enumerate(value):
            yield from _problems(below, f"{name}/{place}", depth + 1)
    elif isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            yield f"the option {name!r} holds half a character (a surrogate), which no file can hold"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"the option {name!r} is {value}, which is no number of JSON"
    elif isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        yield f"the option {name!r} is a whole number of more than 64 bits"
    elif not (value is None or isinstance(value, bool | int | float)):
        yield f"the option {name!r} is a {type(value).__name__}; options are what JSON has: texts, numbers, lists ..."


def _key_problems(key: object, above: str) -> Iterator[str]:
    if not isinstance(key, str):
        yield f"the name of an option is a text, not {key!r}"
    elif not above and key in RESERVED:
        yield f"the option {key!r}: this name is reserved; templates find under it what Headrace itself knows"


def _violations(options: Mapping[str, Any], described: Mapping[str, Any]) -> Iterator[str]:
    known = list(described.get("properties", {}))
    if described.get("additionalProperties") is False and known:
        unknown = [name for name in options if name not in known]
        for name in unknown:
            likely = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {likely[0]!r}?" if likely else f"it knows {', '.join(known)}"
            yield f"the option {name!r}: this endpoint does not know it; {advice}"
        options = {name: value for name, value in options.items() if name not in unknown}
    try:
        validate_against(dict(described), options, name="user_config_schema.json")
    except SchemaViolation as error:
        for violation in error.violations:
            place = violation.pointer.lstrip("/")
            yield f"the option {place!r}: {violation.problem}" if place else f"the options: {violation.problem}"
