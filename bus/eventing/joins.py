"""Joins: several events that belong together, by a key and within a window, become one event.

Everything here is a pure change of the record of one key: which events wait for the others (parts), which sets are
closed and are still to be told (complete, or expired), and which events were used of late, so that one that comes
again counts for nothing. Whoever changes the record by compare-and-set decides; the events that follow have ids that
follow from the parts, so that telling them again is one event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.templates import InputTemplate, compile_input
from headrace.bus.filters import Filter, compile_filter

COMPLETE_TYPE: Final = "org.headrace.join.complete"
EXPIRED_TYPE: Final = "org.headrace.join.expired"
MOST_WAITING: Final = 100
"""So many events of one name wait under one key; with the next one the oldest expires."""

_REMEMBERED = 200


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """Which events belong together: one for each name in `of`, whose filter it passes, with the same `key` (a
    template), all stored within `within_s` seconds."""

    of: Mapping[str, Any]
    key: str
    within_s: float


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that waits for others, or has met them. `at`: when it was stored (unix seconds, the server's clock)."""

    id: str
    sequence: int
    at: float


class ClosedSet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Parts that wait no longer, and what is still to be told of them. Of an expired set there may be several of a
    name."""

    kind: Literal["complete", "expired"]
    parts: Mapping[str, tuple[Part, ...]]

    def name(self, subscription: str, key: str) -> str:
        """The id of the event that tells of it."""
        digest = hashlib.blake2b(digest_size=16)
        members = [f"{name}\x00{part.id}" for name, parts in sorted(self.parts.items()) for part in parts]
        for text in (self.kind, subscription, key, *members):
            data = text.encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()


class JoinRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known under one key. `waiting`: the parts by name, oldest first."""

    key: str
    waiting: Mapping[str, tuple[Part, ...]] = {}
    closed: tuple[ClosedSet, ...] = ()
    used: tuple[str, ...] = ()
    """The ids of events that were used, or expired, the latest last."""

    def knows(self, part_id: str) -> bool:
        """Whether an event has been here."""
        return part_id in self.used or any(part_id == each.id for parts in self.waiting.values() for each in parts)

    def due(self, within_s: float) -> float | None:
        """When the oldest part expires; None when none waits."""
        ends = [part.at + within_s for parts in self.waiting.values() for part in parts]
        return min(ends, default=None)

    def with_part(self, fits: Sequence[str], part: Part, names: Sequence[str], within_s: float) -> JoinRecord:
        """With one more event, which can stand for any of the names that it `fits`; all `names` make a set."""
        if self.knows(part.id):
            return self
        # Where it is missed, if anywhere: so an event that fits two names helps the set along.
        name = min(fits, key=lambda each: len(self.waiting.get(each, ())))
        mine = tuple(sorted((*self.waiting.get(name, ()), part), key=lambda each: (each.at, each.sequence)))
        record = msgspec.structs.replace(self, waiting={**self.waiting, name: mine})
        found = record._set(names, within_s)
        if found is not None:
            return record._close("complete", found)
        return record._close("expired", {name: mine[:1]}) if len(mine) > MOST_WAITING else record

    def _set(self, names: Sequence[str], within_s: float) -> Mapping[str, tuple[Part, ...]] | None:
        """The oldest set of one part for each name within one window. Parts that are too old for each other stay: while
        events are caught up with, one that belongs to the older may still come."""
        starts = sorted(part.at for parts in self.waiting.values() for part in parts)
        for start in starts:
            found = {name: self._first(name, start, start + within_s) for name in names}
            if all(found.values()):
                return found
        return None

    def _first(self, name: str, start: float, end: float) -> tuple[Part, ...]:
        return tuple(part for part in self.waiting.get(name, ()) if start <= part.at <= end)[:1]

    def expired(self, at: float, within_s: float) -> JoinRecord:
        """Without the parts whose window was over by this time, up to which every event must have been looked at."""
        late = {name: tuple(each for each in parts if each.at + within_s < at) for name, parts in self.waiting.items()}
        late = {name: parts for name, parts in late.items() if parts}
        return self._close("expired", late) if late else self

    def told(self, closed: ClosedSet) -> JoinRecord:
        """Once an event has told of a set."""
        return msgspec.structs.replace(self, closed=tuple(each for each in self.closed if each != closed))

    def _close(self, kind: Literal["complete", "expired"], parts: Mapping[str, tuple[Part, ...]]) -> JoinRecord:
        gone = {each.id for some in parts.values() for each in some}
        waiting = {name: tuple(each for each in some if each.id not in gone) for name, some in self.waiting.items()}
        return msgspec.structs.replace(
            self,
            waiting={name: some for name, some in waiting.items() if some},
            closed=(*self.closed, ClosedSet(kind=kind, parts=parts)),
            used=(*self.used, *sorted(gone))[-_REMEMBERED:],
        )


@dataclass(frozen=True, slots=True)
class CompiledJoin:
    """A join that is ready to be used."""

    join: Join
    filters: Mapping[str, Filter]
    _key: InputTemplate

    def fits(self, event: CloudEvent) -> list[str]:
        """The names that an event can stand for."""
        return [name for name, wanted in self.filters.items() if wanted.matches(event)]

    def key(self, event: CloudEvent) -> str:
        """What the event has in common with those that it belongs to. Raises `InputFailed`."""
        return str(self._key.render(event).args[0])


def compile_join(join: Join | None) -> CompiledJoin | None:
    """Compile a join. Raises `FilterInvalid` with a pointer into it."""
    if join is None:
        return None
    filters = {name: _compiled(f"/of/{name}", compile_filter, document) for name, document in join.of.items()}
    return CompiledJoin(join, filters, _compiled("/key", lambda text: compile_input({"args": [text]}), join.key))


def _compiled(pointer: str, compile_it: Callable[[Any], Any], document: Any) -> Any:
    try:
        return compile_it(document)
    except FilterInvalid as error:
        raise FilterInvalid(str(error), pointer=pointer + error.pointer.removeprefix("/args/0")) from error
