"""Event patterns, as Amazon EventBridge has them. Its open engine, aws/event-ruler 2.0, says what they mean."""

from headrace.bus.filters.patterns.paths import Paths
from headrace.bus.filters.patterns.pattern import Dialect, EventPattern

__all__ = [
    "Dialect",
    "EventPattern",
    "Paths",
]
