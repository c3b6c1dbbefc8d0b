"""Feeds as they are kept: where messages come from, and what events they become."""

from __future__ import annotations

from typing import Final, Literal
from uuid import UUID

import msgspec

from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.installation.credentials import Credentials
from headrace.bus.keys import KeyRing

MESSAGE_TYPE: Final = "nats.message"
"""The type of the events of a feed that names none."""

DataForm = Literal["auto", "json", "text", "base64"]
"""How the body of a message is read: `auto` is JSON where it is JSON, else base64."""


class FeedCredential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a feed signs in at the other server; all of it empty is without."""

    jwt: str = ""
    seed: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    inbox_prefix: str = "_INBOX"

    def credentials(self) -> Credentials:
        """As a connection wants it."""
        return Credentials(**{name: getattr(self, name) for name in self.__struct_fields__})


class FeedShape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What event a message becomes. Texts are templates over `message`; an empty one is as by default."""

    form: Literal["plain", "cloudevents"] = "plain"
    """Whether messages are anything, or CloudEvents in the NATS binding, which then are taken as they are."""
    type: str = ""
    source: str = ""
    subject: str = ""
    id: str = ""
    data: DataForm = "auto"


class FeedRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Messages on `subjects` at `urls` become events of `bus`, in the name of `owner`."""

    feed_id: UUID
    name: str
    owner: str
    created_at: float
    urls: tuple[str, ...]
    subjects: tuple[str, ...]
    bus: str = DEFAULT_BUS
    stream: str = ""
    """The JetStream stream that holds the messages; empty where nothing does: then they come at most once."""
    start: Literal["new", "all"] = "new"
    """Whether it begins with the messages that come, or with those that the stream holds."""
    shape: FeedShape = FeedShape()
    credential: bytes = b""
    """A `FeedCredential` as JSON, concealed: see `KeyRing.conceal`."""
    paused: bool = False

    @property
    def consumers(self) -> tuple[str, str]:
        """The names of its durable consumer at the stream, by turns: what was taken is known there."""
        return f"headrace-{self.feed_id.hex}-a", f"headrace-{self.feed_id.hex}-b"

    @property
    def lease(self) -> str:
        """Under which lease it is read: one at a time does, so that events keep the order of the messages."""
        return f"feed-{self.feed_id.hex}"


class FeedStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has become of a feed. The numbers are those of the process that reads it now; it goes away by itself."""

    state: Literal["connecting", "reading", "failing"]
    holder: str
    since: float
    at: float
    problem: str = ""
    """The latest thing that went wrong."""
    received: int = 0
    stored: int = 0
    duplicates: int = 0
    """Of those stored: what was there before."""
    refused: int = 0
    """What could not become an event of the bus, and was passed over."""
    lost: int = 0
    """What came faster than it could be stored, where nothing holds it."""


def concealed(keys: KeyRing, feed_id: UUID, credential: FeedCredential) -> bytes:
    """A credential as its record has it."""
    return keys.conceal(msgspec.json.encode(credential), "feed", feed_id.bytes)


def revealed(keys: KeyRing, feed: FeedRecord) -> FeedCredential:
    """The credential of a feed. Raises `SignatureInvalid` when it was concealed under a key that is forgotten."""
    if not feed.credential:
        return FeedCredential()
    return msgspec.json.decode(keys.reveal(feed.credential, "feed", feed.feed_id.bytes), type=FeedCredential)
