"""The root of every error that Headrace raises.

    HeadraceError                 every error of this product
    ├── SchemaViolation           a document does not satisfy its JSON schema
    ├── headrace.bus.errors       the bus: BusError and its children, TaskError and its children
    ├── headrace.sdk.errors       the client
    ├── headrace.endpoint.errors  endpoints
    ├── headrace.action_provider.errors   the HTTP service
    └── headrace.cli.errors       the command line

Every class has a stable `code`, which is what crosses the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


class HeadraceError(Exception):
    """The root of all errors of Headrace. `code` is stable and crosses the wire."""

    code: ClassVar[str] = "HeadraceError"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One way in which a document fails its schema: `pointer` is a JSON pointer (RFC 6901) into the document, `keyword`
    the schema's keyword that refused it (`type`, `required` ...), where there is one."""

    pointer: str
    problem: str
    keyword: str = field(default="", compare=False)


class SchemaViolation(HeadraceError):
    """Raised when a document does not satisfy its JSON schema; `violations` names every place and problem."""

    code = "SchemaViolation"

    def __init__(self, schema: str, violations: tuple[Violation, ...]) -> None:
        self.schema = schema
        self.violations = violations
        places = "; ".join(f"{v.pointer or '/'}: {v.problem}" for v in violations)
        super().__init__(f"the document does not satisfy the schema {schema!r}: {places}")
