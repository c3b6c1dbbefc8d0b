"""Filters: which events a subscription wants."""

from headrace.bus.filters.dialects import Filter, compile_filter
from headrace.bus.filters.index import FilterIndex

__all__ = [
    "Filter",
    "compile_filter",
    "FilterIndex",
]
