"""One event as filters see it. What several of them need is made once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from headrace.bus.eventing.events import CloudEvent, attribute_texts


class EventView:
    """An event, with its attributes as they are and as texts."""

    def __init__(self, event: CloudEvent) -> None:
        self.document: Mapping[str, Any] = event.document
        self.attributes = event.attributes
        self._event = event

    @cached_property
    def texts(self) -> dict[str, str]:
        """The attributes in the canonical text form of CloudEvents."""
        return attribute_texts(self._event)
