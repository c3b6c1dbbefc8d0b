"""What the service grants to a pool, and what a pool asks of the service."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from headrace.bus.functions.code import FunctionCode
from headrace.bus.installation.credentials import Credentials
from headrace.bus.queues.lane_news import LaneName
from headrace.bus.tasks.bundles import FunctionUse


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolGrant:
    """A pool's credential and secrets. Durations in seconds.

    `tasks_sequence` is where the stream of tasks ended when the grant was made: what is stored up to there may have
    been in other hands before. `bus_time` is when it was made: unix seconds, the NATS server's clock.
    """

    endpoint: UUID
    pool: str
    urls: tuple[str, ...]
    credentials: Credentials
    lanes: tuple[LaneName, ...] = field(repr=False)
    pool_secret: bytes = field(repr=False)
    code_token: str = field(repr=False)
    tasks_sequence: int
    bus_time: float
    expires_in_s: float
    max_payload: int = 8 << 20
    """The largest message that the bus takes, in bytes."""
    older_pool_secrets: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def pool_secrets(self) -> tuple[bytes, ...]:
        """The secrets that are believed, the one in use first."""
        return (self.pool_secret, *self.older_pool_secrets)

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> PoolGrant:
        """Read the answer of `POST /api/v1/endpoints/{id}/pools`."""
        return cls(
            endpoint=UUID(document["endpoint_id"]),
            pool=document["pool"],
            urls=tuple(document["nats_urls"]),
            credentials=Credentials(jwt=document["jwt"], seed=document["seed"], inbox_prefix=document["inbox_prefix"]),
            lanes=tuple(
                LaneName(lane["consumer"], lane["principal"], int(lane.get("remade_up_to", 0)))
                for lane in document["lanes"]
            ),
            pool_secret=base64.b64decode(document["pool_secret"]),
            code_token=document["code_token"],
            tasks_sequence=int(document["tasks_sequence"]),
            bus_time=datetime.fromisoformat(document["bus_time"]).timestamp(),
            expires_in_s=float(document["expires_in_s"]),
            max_payload=int(document["max_payload"]),
            older_pool_secrets=tuple(map(base64.b64decode, document.get("older_pool_secrets") or ())),
        )


class PoolService(Protocol):
    """What a pool asks of the service; the calls block and are made in threads.

    Both raise `ServiceAway` when asking again later may help, and `RegistrationRefused` when it will not.
    """

    def grant_pool(self) -> PoolGrant: ...

    def fetch_code(self, grant: PoolGrant, use: FunctionUse, principal: str) -> FunctionCode: ...
