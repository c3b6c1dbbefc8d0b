"""CESQL, the expression language of CloudEvents, version 1.0 (github.com/cloudevents/spec, cesql/spec.md)."""

from headrace.bus.filters.cesql.expression import CESQL, Evaluation
from headrace.bus.filters.cesql.faults import FaultKind

__all__ = [
    "CESQL",
    "Evaluation",
    "FaultKind",
]
