"""Many filters at once: only those that could fit are evaluated."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from headrace.bus.eventing.events import CloudEvent, attribute_texts
from headrace.bus.filters.dialects import Anchor, Filter

K = TypeVar("K", bound=Hashable)

# What tells subscriptions apart best comes first.
_PREFERRED = ("subject", "type", "source")


class FilterIndex(Generic[K]):
    """Filters under keys, found by one exact text that each requires; those that require none are all evaluated."""

    def __init__(self) -> None:
        self._filters: dict[K, Filter] = {}
        self._anchored: dict[Anchor, set[K]] = {}
        self._attributes: dict[str, int] = {}
        self._loose: set[K] = set()

    def __len__(self) -> int:
        return len(self._filters)

    def put(self, key: K, compiled: Filter) -> None:
        """Keep a filter under this key, in place of the one that was there."""
        self.remove(key)
        self._filters[key] = compiled
        anchor = _anchor(compiled)
        if anchor is None:
            self._loose.add(key)
            return
        self._anchored.setdefault(anchor, set()).add(key)
        self._attributes[anchor[0]] = self._attributes.get(anchor[0], 0) + 1

    def remove(self, key: K) -> None:
        """Forget the filter under this key; nothing happens when there is none."""
        compiled = self._filters.pop(key, None)
        if compiled is None:
            return
        anchor = _anchor(compiled)
        if anchor is None:
            self._loose.discard(key)
            return
        keys = self._anchored[anchor]
        keys.discard(key)
        if not keys:
            del self._anchored[anchor]
        self._attributes[anchor[0]] -= 1
        if not self._attributes[anchor[0]]:
            del self._attributes[anchor[0]]

    def matching(self, event: CloudEvent) -> set[K]:
        """The keys of all filters that the event passes."""
        texts = attribute_texts(event)
        candidates = set(self._loose)
        for name in self._attributes.keys() & texts.keys():
            candidates |= self._anchored.get((name, texts[name]), set())
        return {key for key in candidates if self._filters[key].fits(texts)}


def _anchor(compiled: Filter) -> Anchor | None:
    for name in _PREFERRED:
        for anchor in compiled.anchors:
            if anchor[0] == name:
                return anchor
    return compiled.anchors[0] if compiled.anchors else None
