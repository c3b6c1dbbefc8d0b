"""JSON schemas, the only validator, and the root of all errors."""

from headrace.schemas.errors import HeadraceError, SchemaViolation, Violation
from headrace.schemas.validator import check_schema, schema, schema_names, validate, validate_against

__all__ = [
    # Validation
    "schema",
    "schema_names",
    "validate",
    "validate_against",
    "check_schema",
    # Errors
    "HeadraceError",
    "SchemaViolation",
    "Violation",
]
