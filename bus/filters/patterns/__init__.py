"""Event patterns, as Amazon EventBridge has them; its open engine, aws/event-ruler 2.0, is the judge of what they mean."""

from headrace.bus.filters.patterns.pattern import Dialect, EventPattern

__all__ = [
    "Dialect",
    "EventPattern",
]
