"""An event that passes a filter, made from what the filter asks for, where that can be done by what it says plainly."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Final

from headrace.bus.eventing.events import CloudEvent
from headrace.bus.filters.dialects import Filter
from headrace.bus.filters.needs import Anchor
from headrace.bus.filters.patterns.scalars import LongNumber, Word
from headrace.schemas import SchemaViolation

_PLAIN: Final = {"specversion": "1.0", "id": "sample", "source": "/sample", "type": "sample"}
_MOST_TRIES = 64


def sample_for(wanted: Filter) -> CloudEvent | None:
    """An event that passes; None where trying what the filter names does not lead to one."""
    for chosen in itertools.islice(itertools.product(*map(_in_order, wanted.root.needs)), _MOST_TRIES):
        document: dict[str, Any] = dict(_PLAIN)
        if not all(_set(document, anchor) for anchor in chosen):
            continue
        try:
            event = CloudEvent.of_document(document)
        except SchemaViolation:
            continue
        if wanted.matches(event):
            return event
    return None


def _in_order(alternatives: Iterable[Anchor]) -> list[Anchor]:
    return sorted(alternatives, key=lambda anchor: (anchor.name, anchor.kind, str(anchor.value)))


def _set(document: dict[str, Any], anchor: Anchor) -> bool:
    """Give the document what an anchor names; says whether that could be done."""
    *above, last = anchor.name.split(".")
    place: Any = document
    for step in above:
        place = place.setdefault(step, {})
        if not isinstance(place, dict):
            return False
    value = _value(anchor.value)
    known = place.get(last) if place is not document or _PLAIN.get(last) != place.get(last) else None
    if isinstance(value, str) and isinstance(known, str):
        # A beginning and an end of one text.
        value = known + value if anchor.kind == "suffix" else value + known if anchor.kind == "prefix" else value
    place[last] = value
    return True


def _value(value: object) -> Any:
    if isinstance(value, Word):
        return value is Word.TRUE
    if isinstance(value, LongNumber):
        return int(value.text) if value.text.lstrip("-").isdigit() else float(value.text)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
