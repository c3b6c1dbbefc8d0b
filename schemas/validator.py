"""The JSON schemas, and the only validator.

A schema is a file `NAME.json` beside this module (JSON Schema 2020-12). References between schemas are by file name
(`{"$ref": "endpoint-id.json"}`); the service serves the files under `/schemas/NAME`.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from importlib import resources
from typing import Any, Final

import jsonschema
from jsonschema.protocols import Validator
from jsonschema_specifications import REGISTRY as SPECIFICATIONS  # type: ignore[import-untyped] # it has no types
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from headrace.schemas.errors import SchemaViolation, Violation
from headrace.schemas.quick import Check, Unsure, check_of

ALLOWED: Final = "x-allowed"
"""The keyword beside `pattern` that says in words what the pattern allows: 'x' is not *a name of digits*."""

_MOST_VIOLATIONS = 20
_MOST_TEXT = 400
_MOST_NAMED = 5


@functools.cache
def schema_names() -> tuple[str, ...]:
    """The names of all schemas, sorted, without the `.json`."""
    files = resources.files("headrace.schemas").iterdir()
    return tuple(sorted(f.name.removesuffix(".json") for f in files if f.name.endswith(".json")))


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The schema of this name. Treat it as read-only: it is shared.

    Raises `KeyError` for an unknown name.
    """
    if name not in schema_names():
        raise KeyError(name)
    text = resources.files("headrace.schemas").joinpath(f"{name}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def validate(name: str, document: object) -> None:
    """Check a document against the schema `name`.

    Raises `SchemaViolation` with a JSON pointer and a sentence for each problem (at most twenty).
    """
    if not _surely_satisfies(name, document):
        raise_violations(name, _validator(name), document)


def validate_against(description: dict[str, Any], document: object, *, name: str = "input") -> None:
    """Check a document against a schema that a user gave. Raises `SchemaViolation`, also for a reference out of it."""
    # With a registry of its own nothing is fetched from elsewhere.
    validator = jsonschema.Draft202012Validator(description, registry=SPECIFICATIONS)
    try:
        raise_violations(name, validator, document)
    except Unresolvable as error:
        problem = f"the schema refers to {error.ref!r}, which is not in it"
        raise SchemaViolation(name, (Violation(pointer="", problem=problem),)) from error


def check_schema(description: object) -> None:
    """Check that a user's schema is itself a JSON schema (2020-12). Raises `SchemaViolation`."""
    meta = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)
    raise_violations("https://json-schema.org/draft/2020-12/schema", meta, description)


def _surely_satisfies(name: str, document: object) -> bool:
    check = _quick_check(name)
    try:
        return check is not None and check(document)
    except (Unsure, RecursionError):
        return False


@functools.cache
def _quick_check(name: str) -> Check | None:
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    try:
        return check_of(
            schema(name),
            find=lambda reference: schema(reference.removesuffix(".json")),
            fits=formats.conforms,
        )
    except (Unsure, KeyError):
        return None


@functools.cache
def _registry() -> Registry[Any]:
    pairs = [(f"{name}.json", DRAFT202012.create_resource(schema(name))) for name in schema_names()]
    return Registry().with_resources(pairs)


@functools.cache
def _validator(name: str) -> Validator:
    return jsonschema.Draft202012Validator(
        schema(name), registry=_registry(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def raise_violations(name: str, validator: Validator, document: Any) -> None:
    """Check a document with a validator of the schema `name`. Raises `SchemaViolation`."""
    found = [meant for error in validator.iter_errors(document) for meant in _meant(error)]
    errors = sorted(found, key=lambda e: list(map(str, e.absolute_path)))
    if errors:
        raise SchemaViolation(
            name,
            tuple(
                Violation(pointer=_pointer(e.absolute_path), problem=_problem(e), keyword=str(e.validator))
                for e in errors[:_MOST_VIOLATIONS]
            ),
        )


def _meant(error: jsonschema.ValidationError) -> list[jsonschema.ValidationError]:
    """Of a choice of forms what is wrong with the only one that is of the document's type, else the choice itself."""
    if error.validator not in ("anyOf", "oneOf"):
        return [error]
    forms: dict[Any, list[jsonschema.ValidationError]] = {}
    for each in error.context or ():
        forms.setdefault(each.relative_schema_path[0], []).append(each)
    of_its_type = [
        errors
        for errors in forms.values()
        if all(e.validator not in ("type", "const") or e.relative_path for e in errors)
    ]
    return [meant for e in of_its_type[0] for meant in _meant(e)] if len(of_its_type) == 1 else [error]


def _problem(error: jsonschema.ValidationError) -> str:
    # For a choice of forms the library prints the whole document; the schema's own words say what was wanted.
    wanted = error.schema.get("description") if isinstance(error.schema, dict) else None
    if wanted and error.validator in ("anyOf", "oneOf"):
        return f"none of the forms fits: {wanted}"
    if error.validator == "pattern" and isinstance(error.schema, dict) and ALLOWED in error.schema:
        return f"{_shortened(repr(error.instance))} is not {error.schema[ALLOWED]}"
    if error.validator == "additionalProperties" and error.validator_value is False:
        return _shortened(_unknown_fields(error.instance, error.schema))
    return _shortened(error.message)


def _unknown_fields(document: Any, described: Any) -> str:
    known = list(described.get("properties", ()))
    patterns = tuple(described.get("patternProperties", ()))
    unknown = [name for name in document if name not in known and not any(re.search(each, name) for each in patterns)]
    named = ", ".join(map(repr, unknown[:_MOST_NAMED])) + (", …" if len(unknown) > _MOST_NAMED else "")
    likely = difflib.get_close_matches(unknown[0], known, n=1) if len(unknown) == 1 else []
    if likely:
        return f"there is no field {named} here; did you mean {likely[0]!r}?"
    plural = "s" if len(unknown) > 1 else ""
    return f"there {'are' if plural else 'is'} no field{plural} {named} here; known: {', '.join(known) or 'none'}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT // 2]} … {text[-_MOST_TEXT // 2 :]}"


def _pointer(path: Any) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
