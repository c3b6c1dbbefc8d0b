"""Fair share: calls wait here until the engine has room, and principals take turns.

First the principals in turn, then the groups of a principal, then the order of arrival: one user's million tasks do
not delay another's single one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from uuid import UUID

from headrace.endpoint.engine import Call


class Turns:
    """Waiting calls. Taking one costs the same however many wait."""

    def __init__(self) -> None:
        self._principals: dict[str, dict[UUID, deque[Call]]] = {}
        self._order: deque[str] = deque()
        self._groups: dict[str, deque[UUID]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, principal: str, group: UUID, call: Call) -> None:
        """Let a call wait for its turn."""
        groups = self._principals.get(principal)
        if groups is None:
            groups = self._principals[principal] = {}
            self._groups[principal] = deque()
            self._order.append(principal)
        calls = groups.get(group)
        if calls is None:
            calls = groups[group] = deque()
            self._groups[principal].append(group)
        calls.append(call)
        self._size += 1

    def take(self) -> tuple[str, UUID, Call] | None:
        """The call whose turn it is, with its principal and group, or None."""
        if not self._order:
            return None
        principal = self._order[0]
        order, groups = self._groups[principal], self._principals[principal]
        group = order[0]
        calls = groups[group]
        call = calls.popleft()
        self._size -= 1
        if calls:
            order.rotate(-1)
        else:
            order.popleft()
            del groups[group]
        if order:
            self._order.rotate(-1)
        else:
            self._order.popleft()
            del self._principals[principal], self._groups[principal]
        return principal, group, call

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
            self._order.remove(principal)
