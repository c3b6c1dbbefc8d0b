"""How many pools of users may run at a time, and which of them make room for others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from headrace.endpoint.config import EndpointConfig

GIVES_WAY_AFTER_S = 1.0
"""A pool that had nothing in hand for so long makes room for one that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A pool that runs. `idle_s`: for how long it has had nothing in hand; None while it has something."""

    pool: str
    principal: str
    idle_s: float | None = None
    leaves: bool = False
    """It is being stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The limits: of all users together, and of one."""

    pools: int
    pools_per_principal: int

    @classmethod
    def of(cls, config: EndpointConfig) -> Room:
        """What `config.yaml` says; the default pool is one of `max_pools`."""
        return cls(pools=config.max_pools - 1, pools_per_principal=config.max_pools_per_principal)

    def has_place(self, tenants: Collection[Tenant], principal: str) -> bool:
        """Whether a pool of the principal's may start now."""
        own = sum(tenant.principal == principal for tenant in tenants)
        return len(tenants) < self.pools and own < self.pools_per_principal

    def givers(self, tenants: Collection[Tenant], waiting: Iterable[str]) -> Iterator[str]:
        """The idle pools that give way to those that wait, by their principals in order: the longest idle first, and
        no more of them than needed."""
        idle = [
            tenant
            for tenant in tenants
            if not tenant.leaves and tenant.idle_s is not None and tenant.idle_s >= GIVES_WAY_AFTER_S
        ]
        idle.sort(key=lambda tenant: -(tenant.idle_s or 0.0))
        # Those that leave have made their room already.
        own = Counter(tenant.principal for tenant in tenants if not tenant.leaves)
        for principal in waiting:
            crowded = own[principal] >= self.pools_per_principal
            if crowded or own.total() >= self.pools:
                giver = next((each for each in idle if not crowded or each.principal == principal), None)
                if giver is None:
                    continue
                idle.remove(giver)
                own[giver.principal] -= 1
                yield giver.pool
            own[principal] += 1
