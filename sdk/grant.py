"""A grant: what the service gave this process for one pool, and for how long."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from headrace.bus.installation.credentials import Credentials, issued_at
from headrace.sdk.allowance import NO_LIMIT, QueueLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the service granted: where to connect, as whom, and the keys. Durations in seconds."""

    endpoint: UUID
    pool: str
    principal: str
    urls: tuple[str, ...]
    credentials: Credentials
    bundle_key: bytes = field(repr=False)
    bundle_key_expires: int
    result_key: bytes = field(repr=False)
    expires_in_s: float
    max_payload: int = 8 << 20
    """The largest message that the bus takes, in bytes."""
    issued_at: int
    """Unix seconds by the service's clock."""
    queue_limit: QueueLimit = NO_LIMIT
    older_result_keys: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def result_keys(self) -> tuple[bytes, ...]:
        """The keys under which results are believed; the first one is in use."""
        return (self.result_key, *self.older_result_keys)

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Grant:
        """Read the answer of `POST /api/v1/sessions`."""
        return cls(
            endpoint=UUID(document["endpoint_id"]),
            pool=document["pool"],
            principal=document["principal"],
            urls=tuple(document["nats_urls"]),
            credentials=Credentials(jwt=document["jwt"], seed=document["seed"], inbox_prefix=document["inbox_prefix"]),
            bundle_key=base64.b64decode(document["bundle_key"]),
            bundle_key_expires=int(document["bundle_key_expires"]),
            result_key=base64.b64decode(document["result_key"]),
            expires_in_s=float(document["expires_in_s"]),
            max_payload=int(document["max_payload"]),
            issued_at=issued_at(document["jwt"]),
            older_result_keys=tuple(map(base64.b64decode, document.get("older_result_keys") or ())),
            queue_limit=QueueLimit.of_document(document.get("queue_limit")),
        )
