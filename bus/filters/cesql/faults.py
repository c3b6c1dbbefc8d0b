"""What can go wrong while an expression is evaluated, and the value that there is all the same."""

from __future__ import annotations

import enum

from headrace.bus.errors import BusError

Value = str | int | bool


class FaultKind(enum.StrEnum):
    """The kinds of errors of the specification (section 3.3)."""

    PARSE = "parse"
    MATH = "math"
    CAST = "cast"
    MISSING_ATTRIBUTE = "missingAttribute"
    MISSING_FUNCTION = "missingFunction"
    FUNCTION_EVALUATION = "functionEvaluation"
    GENERIC = "generic"


class Fault(BusError):
    """Raised where an operator or function cannot do its work. It ends the evaluation, and nobody outside meets it.

    `value` is what `source`, which raised it, gives all the same, if that is not the zero of its type.
    """

    code = "ExpressionFault"

    def __init__(self, kind: FaultKind, value: Value | None = None, *, source: object = None) -> None:
        self.kind = kind
        self.value = value
        self.source = source
        super().__init__(kind)
