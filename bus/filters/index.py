"""Many filters at once: only those that could fit are evaluated.

Each filter is kept under one need that an event must meet to pass it: an exact text or value, or the beginning or end
of a text. An event looks up what it has. So an event costs what fits it, not what there is, apart from filters that
need nothing one could look up.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

from headrace.bus.eventing.events import CloudEvent
from headrace.bus.filters.dialects import Filter
from headrace.bus.filters.needs import Anchor, Need
from headrace.bus.filters.patterns import Paths
from headrace.bus.filters.view import EventView

K = TypeVar("K", bound=Hashable)

# What tells subscriptions apart best comes first, as long as nothing is known.
_PREFERRED: Final = {"subject": 0, "source": 2, "type": 3}
_KINDS: Final = {"exact": 0, "field": 0, "prefix": 1, "suffix": 2}


class FilterIndex(Generic[K]):
    """Filters under keys."""

    def __init__(self) -> None:
        self._filters: dict[K, Filter] = {}
        self._places: dict[K, Need] = {}
        self._loose: set[K] = set()
        self._exact: dict[str, dict[object, set[K]]] = {}
        self._ends: dict[tuple[str, str], dict[int, dict[str, set[K]]]] = {}
        self._fields: dict[str, dict[object, set[K]]] = {}
        self._paths: Paths | None = None

    def __len__(self) -> int:
        return len(self._filters)

    def put(self, key: K, compiled: Filter) -> None:
        """Keep a filter under this key, in place of the one that was there."""
        self.remove(key)
        self._filters[key] = compiled
        place = min(compiled.root.needs, key=self._cost, default=None)
        if place is None:
            self._loose.add(key)
            return
        self._places[key] = place
        for anchor in place:
            self._keys(anchor).add(key)

    def remove(self, key: K) -> None:
        """Forget the filter under this key; nothing happens when there is none."""
        if self._filters.pop(key, None) is None:
            return
        self._loose.discard(key)
        for anchor in self._places.pop(key, ()):
            self._take_out(anchor, key)

    def matching(self, event: CloudEvent) -> set[K]:
        """The keys of all filters that the event passes."""
        view = EventView(event)
        candidates = set(self._loose)
        for keys in self._found(view):
            candidates |= keys
        filters = self._filters
        return {key for key in candidates if filters[key].root.fits(view)}

    def _found(self, view: EventView) -> Iterator[set[K]]:
        texts = view.texts
        for name, text in texts.items():
            values = self._exact.get(name)
            if values is not None and text in values:
                yield values[text]
        for (kind, name), lengths in self._ends.items():
            text = texts.get(name, "")
            for length, ends in lengths.items():
                end = text[:length] if kind == "prefix" else text[-length:]
                if len(text) >= length and end in ends:
                    yield ends[end]
        if self._fields:
            if self._paths is None:
                self._paths = Paths(self._fields)
            for path, value in self._paths.values(view.document):
                keys = self._fields[path].get(value)
                if keys is not None:
                    yield keys

    def _cost(self, place: Need) -> tuple[int, int, int]:
        """What a need would cost: how many filters are there already, how it is looked up, how little it tells."""
        crowd = max(len(self._peek(anchor)) for anchor in place)
        kind = max(_KINDS[anchor.kind] for anchor in place)
        return crowd, kind, max(_PREFERRED.get(anchor.name, 1) for anchor in place)

    def _peek(self, anchor: Anchor) -> set[K]:
        match anchor.kind:
            case "exact":
                return self._exact.get(anchor.name, {}).get(anchor.value, set())
            case "field":
                return self._fields.get(anchor.name, {}).get(anchor.value, set())
            case _:
                text = str(anchor.value)
                return self._ends.get((anchor.kind, anchor.name), {}).get(len(text), {}).get(text, set())

    def _keys(self, anchor: Anchor) -> set[K]:
        match anchor.kind:
            case "exact":
                return self._exact.setdefault(anchor.name, {}).setdefault(anchor.value, set())
            case "field":
                if anchor.name not in self._fields:
                    self._paths = None
                return self._fields.setdefault(anchor.name, {}).setdefault(anchor.value, set())
            case _:
                text = str(anchor.value)
                lengths = self._ends.setdefault((anchor.kind, anchor.name), {})
                return lengths.setdefault(len(text), {}).setdefault(text, set())

    def _take_out(self, anchor: Anchor, key: K) -> None:
        keys = self._keys(anchor)
        keys.discard(key)
        if keys:
            return
        # Nothing is left behind, or an index would grow with all that ever was.
        if anchor.kind in ("exact", "field"):
            table = self._exact if anchor.kind == "exact" else self._fields
            del table[anchor.name][anchor.value]
            if not table[anchor.name]:
                del table[anchor.name]
                self._paths = None
            return
        text, ends = str(anchor.value), self._ends[anchor.kind, anchor.name]
        del ends[len(text)][text]
        if not ends[len(text)]:
            del ends[len(text)]
        if not ends:
            del self._ends[anchor.kind, anchor.name]
