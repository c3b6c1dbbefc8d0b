"""Which functions may run at an endpoint: those named by their id, and all of some owners'.

The service asks before it lets a task be submitted, the pool before it runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from headrace.bus.urns import canonical, canonical_set


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowList:
    """A function may run if its id or its owner is listed; where neither list is given, all may."""

    functions: frozenset[UUID] | None = None
    owners: frozenset[str] | None = None
    """Principals."""

    @classmethod
    def of(cls, functions: Iterable[UUID | str] | None, owners: Iterable[str] | None) -> Self:
        """The list with these ids and owners, None where none is given."""
        return cls(
            functions=None if functions is None else frozenset(UUID(str(each)) for each in functions),
            owners=None if owners is None else canonical_set(owners),
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave."""
        return cls.of(document.get("functions"), document.get("owners"))

    @property
    def is_open(self) -> bool:
        """Whether everything may run."""
        return self.functions is None and self.owners is None

    def permits(self, function: UUID, owner: str) -> bool:
        """Whether this function of this owner may run."""
        return self.is_open or function in (self.functions or ()) or canonical(owner) in (self.owners or ())

    def may_permit(self, function: UUID) -> bool:
        """Whether it may run as far as that can be said without its owner."""
        return self.is_open or bool(self.owners) or function in (self.functions or ())

    def document(self) -> dict[str, Any]:
        """The list as JSON."""
        return {
            "functions": None if self.functions is None else sorted(map(str, self.functions)),
            "owners": None if self.owners is None else sorted(self.owners),
        }
