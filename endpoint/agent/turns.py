"""Fair share: calls wait here until the engine has room, and principals take turns.

First the principals in turn (as many turns in a row as their weight), then the groups of a principal, then the order of
arrival: one user's million tasks do not delay another's single one. Who has as many calls running as the administrator
allows is passed over until one of them has ended.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from uuid import UUID

from headrace.endpoint.engines.engine import Call
from headrace.endpoint.fair_share import FairShare

_EVERYBODY_ALIKE = FairShare()


class Turns:
    """Waiting calls. Taking one costs the same however many wait."""

    def __init__(self, fair_share: FairShare = _EVERYBODY_ALIKE) -> None:
        self._share = fair_share
        self._principals: dict[str, dict[UUID, deque[Call]]] = {}
        self._groups: dict[str, deque[UUID]] = {}
        # Who has calls waiting is either in the order, or rests because enough of theirs run.
        self._order: deque[str] = deque()
        self._resting: set[str] = set()
        self._turns_left = 0
        self._running: dict[UUID, str] = {}
        self._counts: Counter[str] = Counter()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, principal: str, group: UUID, call: Call) -> None:
        """Let a call wait for its turn; one that was taken, and does not run, waits again."""
        if self._running:
            self.ended(call.key)
        groups = self._principals.get(principal)
        if groups is None:
            groups = self._principals[principal] = {}
            self._groups[principal] = deque()
            self._enter(principal)
        calls = groups.get(group)
        if calls is None:
            calls = groups[group] = deque()
            self._groups[principal].append(group)
        calls.append(call)
        self._size += 1

    def take(self) -> tuple[str, UUID, Call] | None:
        """The call whose turn it is, with its principal and group, or None. It counts as running until `ended`."""
        if not self._order:
            return None
        principal = self._order[0]
        order, groups = self._groups[principal], self._principals[principal]
        group = order[0]
        calls = groups[group]
        call = calls.popleft()
        self._size -= 1
        if self._share.is_limited:
            self._running[call.key] = principal
            self._counts[principal] += 1
        if calls:
            order.rotate(-1)
        else:
            order.popleft()
            del groups[group]
        if not order:
            self._leave(principal)
            del self._principals[principal], self._groups[principal]
        elif not self._may_run(principal):
            self._leave(principal)
            self._resting.add(principal)
        else:
            self._next_turn(principal)
        return principal, group, call

    def ended(self, key: UUID) -> bool:
        """A call that was taken does not run (any more); whether somebody's turn may come because of it."""
        # Empty where nobody has a limit; then the id need not be hashed.
        principal = self._running.pop(key, None) if self._running else None
        if principal is None:
            return False
        self._counts[principal] -= 1
        if not self._counts[principal]:
            del self._counts[principal]
        if principal not in self._resting or not self._may_run(principal):
            return False
        self._resting.remove(principal)
        self._enter(principal)
        return True

    def remove(self, principal: str, group: UUID, keys: Collection[UUID]) -> list[Call]:
        """Take these calls out of the queue; the ones that were there."""
        calls = self._principals.get(principal, {}).get(group)
        if not calls:
            return []
        removed = [call for call in calls if call.key in keys]
        if removed:
            kept = [call for call in calls if call.key not in keys]
            calls.clear()
            calls.extend(kept)
            self._size -= len(removed)
            if not kept:
                self._forget(principal, group)
        return removed

    def _forget(self, principal: str, group: UUID) -> None:
        del self._principals[principal][group]
        self._groups[principal].remove(group)
        if not self._groups[principal]:
            del self._principals[principal], self._groups[principal]
            self._leave(principal)

    def _may_run(self, principal: str) -> bool:
        limit = self._share.limit(principal)
        return limit is None or self._counts[principal] < limit

    def _enter(self, principal: str) -> None:
        if not self._may_run(principal):
            self._resting.add(principal)
            return
        self._order.append(principal)
        if len(self._order) == 1:
            self._turns_left = self._share.weight(principal)

    def _leave(self, principal: str) -> None:
        if principal in self._resting:
            self._resting.remove(principal)
            return
        was_first = self._order[0] == principal
        self._order.remove(principal)
        if was_first and self._order:
            self._turns_left = self._share.weight(self._order[0])

    def _next_turn(self, principal: str) -> None:
        self._turns_left -= 1
        if self._turns_left <= 0:
            self._order.rotate(-1)
            self._turns_left = self._share.weight(self._order[0])
