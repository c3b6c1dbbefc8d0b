"""Filters: which events a subscription wants. Three languages, one engine."""

from headrace.bus.errors import InvalidExpression, InvalidPattern
from headrace.bus.filters.cesql import CESQL, Evaluation, FaultKind
from headrace.bus.filters.dialects import Filter, compile_filter
from headrace.bus.filters.explanation import Explanation
from headrace.bus.filters.index import FilterIndex
from headrace.bus.filters.patterns import EventPattern

__all__ = [
    "CESQL",
    "Evaluation",
    "EventPattern",
    "Explanation",
    "FaultKind",
    "Filter",
    "FilterIndex",
    "InvalidExpression",
    "InvalidPattern",
    "compile_filter",
]
