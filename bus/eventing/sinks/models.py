"""Sinks as they are kept in a subscription's record, and their secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from headrace.bus.eventing.signatures import SignatureForm
from headrace.bus.keys import KeyRing

SinkMode = Literal["structured", "binary", "batch"]

SecretKind = Literal["secret", "token", "headers"]


class Sink(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a subscription's events go, and how. What is concealed is shown to nobody: see `KeyRing.conceal`."""

    url: str
    mode: SinkMode = "structured"
    timeout_s: float = 30.0
    """For one attempt, from the first packet to the end of the answer."""
    concurrency: int = 4
    """Requests at a time, all dispatchers together."""
    batch_size: int = 100
    """Events in one request at most (`batch`)."""
    rate_per_minute: int | None = None
    """Requests at most; what the sink has allowed in the handshake, where it was asked."""
    signature: SignatureForm | None = None
    secret: bytes = b""
    """Concealed: what requests are signed with."""
    token: bytes = b""
    """Concealed: a bearer token."""
    headers: bytes = b""
    """Concealed: further headers, as JSON."""
    header_names: tuple[str, ...] = ()
    ca: str = ""
    """Certificates of authorities (PEM) that are trusted in place of the system's."""
    handshake: bool = False
    """Whether it was asked for its consent."""
    gone_at: float = 0.0
    """When it said that it is gone for good; nothing is sent since. 0 while it has not."""

    @property
    def most_events(self) -> int:
        """Events in one request at most."""
        return self.batch_size if self.mode == "batch" else 1

    @property
    def host(self) -> str:
        """The host's name, or its address without brackets."""
        return urlsplit(self.url).hostname or ""


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink's requests prove themselves with. Never shown, never logged."""

    secret: str = ""
    token: str = ""
    headers: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return "Secrets(…)"


def concealed(keys: KeyRing, subscription_id: UUID, kind: SecretKind, secret: str) -> bytes:
    """A secret as a record has it; nothing stays nothing."""
    return keys.conceal(secret.encode(), "sink", kind, subscription_id.bytes) if secret else b""


def revealed(keys: KeyRing, subscription_id: UUID, sink: Sink) -> Secrets:
    """The secrets of a sink. Raises `SignatureInvalid` when they were concealed under a key that is forgotten."""

    def reveal(kind: SecretKind, value: bytes) -> str:
        return keys.reveal(value, "sink", kind, subscription_id.bytes).decode() if value else ""

    return Secrets(
        secret=reveal("secret", sink.secret),
        token=reveal("token", sink.token),
        headers=json.loads(reveal("headers", sink.headers) or "{}"),
    )
