"""The scheduler of one subscription: what begins next. It knows no store, no clock and no network.

Each key is a line of its own; what has no key is in one that nothing holds up. A key that has begun something begins
nothing else until that has ended, with all that followed from it: so a failing event parks its key, and no other.

Times are unix seconds. Entries are what was queued and not begun; they hold no event, or one that can be forgotten.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from headrace.bus.eventing.flow.limits import Limits
from headrace.bus.eventing.flow.plans import Plan
from headrace.bus.eventing.flow.policy import Flow


@dataclass(slots=True)
class Entry:
    """A queued delivery. `place` is its message of DELIVERIES, `order` its event's sequence, `size` its bytes."""

    place: int
    order: int
    key: str | None = None
    size: int = 0
    queued_at: float = 0.0
    fresh: bool = True
    """Whether it was never tried: only such ones go in batches."""
    message: bytes | None = None

    def __lt__(self, other: Entry) -> bool:
        return (self.order, self.place) < (other.order, other.place)


@dataclass(frozen=True, slots=True)
class Begin:
    """What begins: these entries together, or a plan that was made before."""

    number: int
    key: str | None
    entries: tuple[Entry, ...] = ()
    plan: Plan | None = None


@dataclass(slots=True)
class _Line:
    entries: list[Entry] = field(default_factory=list)
    plans: list[tuple[float, int, Plan]] = field(default_factory=list)
    """Due time, number, plan. Of a key: in the order in which they were made, which is that of their events."""
    size: int = 0
    """Bytes of the entries."""
    running: int = 0
    listed: bool = False
    timer: float = math.inf
    """When it is looked at anyway."""

    @property
    def idle(self) -> bool:
        return not self.entries and not self.plans and not self.running


class Scheduler:
    """What waits and what runs of one subscription. `limits` may be shared with others."""

    def __init__(self, flow: Flow, limits: Limits, *, most_bytes: int = 1 << 18) -> None:
        """`most_bytes` is how large the events of a batch are at most, but for a single one."""
        self._flow = flow
        self._limits = limits
        self._most_bytes = most_bytes
        self._numbers = itertools.count(1)
        self._lines: dict[str | None, _Line] = {}
        self._ready: list[tuple[int, int, str | None]] = []
        self._timers: list[tuple[float, int, str | None]] = []
        self._beyond: set[str | None] = set()
        self._horizon: float = math.inf if flow.order_by is None else 0
        self._waiting = 0
        self._running: dict[int, str | None] = {}

    @property
    def waiting(self) -> int:
        """How many entries have not begun."""
        return self._waiting

    @property
    def running(self) -> int:
        """How many calls have begun and not ended."""
        return len(self._running)

    @property
    def held_back(self) -> bool:
        """Whether entries wait for the horizon."""
        return bool(self._beyond)

    @property
    def wants(self) -> bool:
        """Whether something could begin but for the limits."""
        return bool(self._ready)

    def see(self, horizon: int) -> None:
        """All events up to this sequence are queued, and were added: so their order is known."""
        if horizon > self._horizon:
            self._horizon = horizon
            beyond, self._beyond = self._beyond, set()
            for key in beyond:
                self._list(key)

    def add(self, entry: Entry) -> None:
        """Take a queued delivery in."""
        line = self._line(entry.key)
        heapq.heappush(line.entries, entry)
        line.size += entry.size
        self._waiting += 1
        self._list(entry.key)

    def restore(self, plan: Plan) -> None:
        """Take in a plan that waits."""
        self._put(self._line_key(plan.key), [plan])

    def next(self, now: float, clock: float, *, who: object = None) -> Begin | None:
        """What begins now; it counts as running then. `clock` is the time of the limits."""
        self._look_at_timers(now)
        while self._ready:
            if not self._limits.may_begin(clock, who, self._flow.priority):
                return None
            *_, key = heapq.heappop(self._ready)
            line = self._lines[key]
            line.listed = False
            begin = self._pick(key, line, now)
            if begin is None:
                self._forget(key)
                continue
            self._limits.begin(clock)
            self._running[begin.number] = key
            line.running += 1
            if key is None:
                self._list(None)
            return begin
        return None

    def adopt(self, plan: Plan) -> Begin:
        """Take in what a predecessor has begun: it counts as running, whatever the limits say."""
        begin = Begin(next(self._numbers), self._line_key(plan.key), plan=plan)
        self._limits.adopt()
        self._running[begin.number] = begin.key
        self._line(begin.key).running += 1
        return begin

    def ended(self, begin: Begin, following: Iterable[Plan] = ()) -> None:
        """What has begun has ended, and these plans follow from it."""
        key = self._running.pop(begin.number)
        self._lines[key].running -= 1
        self._limits.end()
        self._put(self._line_key(key), following)
        self._list(key)
        self._forget(key)

    def until(self, now: float) -> float | None:
        """When time alone lets something begin; None when it does not."""
        return max(now, self._timers[0][0]) if self._timers else None

    def keys(self) -> Iterator[str]:
        """The keys that have something waiting or running."""
        return (key for key in self._lines if key is not None)

    def _line_key(self, key: str | None) -> str | None:
        """The line of what was begun before: where a failing event parks nothing, nothing waits for it."""
        return key if self._flow.when_failing == "park" else None

    def _line(self, key: str | None) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        return line

    def _put(self, key: str | None, plans: Iterable[Plan]) -> None:
        line = self._line(key)
        for plan in plans:
            if key is None:
                insort(line.plans, (plan.due, next(self._numbers), plan))
            else:
                # They are parts of one batch, or attempts at one: the order of events is the order among them.
                line.plans.append((plan.due, plan.order, plan))
                line.plans.sort(key=lambda each: each[1])
        self._list(key)

    def _list(self, key: str | None) -> None:
        """Note that a key may have something to begin."""
        line = self._lines.get(key)
        if line is None or line.listed or (key is not None and line.running) or not (line.entries or line.plans):
            return
        line.listed = True
        order = line.plans[0][2].order if line.plans else line.entries[0].order
        heapq.heappush(self._ready, (order, next(self._numbers), key))

    def _forget(self, key: str | None) -> None:
        line = self._lines.get(key)
        if line is not None and line.idle and not line.listed:
            del self._lines[key]

    def _look_at_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            *_, key = heapq.heappop(self._timers)
            if key in self._lines:
                self._lines[key].timer = math.inf
                self._list(key)

    def _later(self, when: float, key: str | None, line: _Line) -> None:
        if when < line.timer:
            line.timer = when
            heapq.heappush(self._timers, (when, next(self._numbers), key))

    def _pick(self, key: str | None, line: _Line, now: float) -> Begin | None:
        """Take out what begins; what must wait for its time or the horizon is noted there."""
        if line.plans:
            due, _, plan = line.plans[0]
            if due <= now:
                del line.plans[0]
                return Begin(next(self._numbers), key, plan=plan)
            self._later(due, key, line)
            if key is not None:
                return None
        if not line.entries:
            return None
        first = line.entries[0]
        if key is not None and first.order > self._horizon:
            self._beyond.add(key)
            return None
        batch = self._flow.batch
        if batch is not None and first.fresh and len(line.entries) < batch.size and line.size < self._most_bytes:
            full_at = first.queued_at + batch.window_s
            if now < full_at:
                self._later(full_at, key, line)
                return None
        entries = self._take(key, line, 1 if batch is None or not first.fresh else batch.size)
        return Begin(next(self._numbers), key, entries=entries)

    def _take(self, key: str | None, line: _Line, most: int) -> tuple[Entry, ...]:
        """The first entries of a line that go together."""
        entries: list[Entry] = []
        total = 0
        while line.entries and len(entries) < most:
            entry = line.entries[0]
            total += entry.size
            beyond = key is not None and entry.order > self._horizon
            if entries and (not entry.fresh or beyond or total > self._most_bytes):
                break
            entries.append(heapq.heappop(line.entries))
            line.size -= entry.size
        self._waiting -= len(entries)
        return tuple(entries)
