"""How an endpoint is shared between those who use it: `fair_share` in its `config.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FairShare:
    """Weights and limits of principals, which are URNs. Without any everybody's turn is as good as another's."""

    weights: Mapping[str, int] = field(default_factory=dict)
    """How many turns in a row a principal has; whoever is not named has one."""
    most_running_per_principal: int | None = None
    """How many tasks of one principal may be with the workers at a time; None sets no limit."""
    most_running: Mapping[str, int] = field(default_factory=dict)
    """The same for single principals, instead of `most_running_per_principal`."""

    @classmethod
    def of_document(cls, document: Mapping[str, Any] | None) -> FairShare:
        """Read `fair_share` of a configuration that satisfies its schema."""
        return cls(**(document or {}))

    def document(self) -> dict[str, Any]:
        """The same as it is handed to the pool."""
        return {
            "weights": dict(self.weights),
            "most_running_per_principal": self.most_running_per_principal,
            "most_running": dict(self.most_running),
        }

    @property
    def is_limited(self) -> bool:
        """Whether anybody's running tasks are limited."""
        return self.most_running_per_principal is not None or bool(self.most_running)

    def weight(self, principal: str) -> int:
        """How many turns in a row the principal has."""
        return self.weights.get(principal, 1)

    def limit(self, principal: str) -> int | None:
        """How many tasks of the principal may be with the workers at a time."""
        return self.most_running.get(principal, self.most_running_per_principal)
