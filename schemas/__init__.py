"""JSON schemas, the only validator, and the root of all errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.schemas.errors import HeadraceError, SchemaViolation, Violation

if TYPE_CHECKING:
    from headrace.schemas.given import TOO_LONG, check_given, validate_given
    from headrace.schemas.validator import check_schema, schema, schema_names, validate, validate_against

__all__ = [
    # Validation
    "schema",
    "schema_names",
    "validate",
    "validate_against",
    "check_schema",
    # Schemas that users give to the service
    "check_given",
    "validate_given",
    "TOO_LONG",
    # Errors
    "HeadraceError",
    "SchemaViolation",
    "Violation",
]


def __getattr__(name: str) -> Any:
    # A worker process imports the errors and never validates: `jsonschema` would double its start time.
    if name in __all__:
        from headrace.schemas import given, validator

        return getattr(given if name in ("check_given", "validate_given", "TOO_LONG") else validator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
