"""Webhooks: addresses at which other systems announce what happened, and the events that come of it.

A delivery of kind `github` or `generic` becomes one event, whose `type`, `source` and `subject` its owner may set, by
text or template; one of kind `cloudevents` holds events already. The id of an event is the delivery's, so a delivery
that is sent again is stored once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from headrace.bus.errors import EventRefused
from headrace.bus.eventing.bindings import ReadJson, put_data
from headrace.bus.eventing.events import DEFAULT_BUS, CloudEvent
from headrace.bus.eventing.signatures import GITHUB, SignatureForm, signed_content
from headrace.bus.eventing.templates import InputTemplate, compile_input
from headrace.bus.keys import KeyRing

HookKind = Literal["github", "generic", "cloudevents"]

DELIVERY_TYPE: Final = "webhook.delivery"
"""The type of what comes through a generic webhook, unless its owner says otherwise."""

_SECRET_BYTES = 32
_UNSHOWN = frozenset({"authorization", "cookie", "proxy-authorization"})


class HookRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sent to `/hooks/{hook_id}` with the right signature is published to `bus`."""

    hook_id: UUID
    name: str
    owner: str
    kind: HookKind
    secret: bytes
    """Concealed: see `KeyRing.conceal`."""
    created_at: float
    bus: str = DEFAULT_BUS
    type: str = ""
    """Text, or a template over the event; empty is what the kind has. Likewise `source` and `subject`."""
    source: str = ""
    subject: str = ""
    signature: SignatureForm = GITHUB
    origins: tuple[str, ...] = ()
    """Who may ask, in the handshake of CloudEvents, to be let send: domain names, or `*`."""

    def templates(self) -> InputTemplate:
        """What its owner says of the events. Raises `FilterInvalid` with the pointer `/kwargs/NAME`."""
        named = {"type": self.type, "source": self.source, "subject": self.subject}
        return compile_input({"kwargs": {name: text for name, text in named.items() if text}})


def new_secret() -> str:
    """A secret for a webhook: 256 random bits."""
    return secrets.token_hex(_SECRET_BYTES)


def concealed(keys: KeyRing, hook_id: UUID, secret: str) -> bytes:
    """A webhook's secret as its record has it."""
    return keys.conceal(secret.encode(), "hook", hook_id.bytes)


def revealed(keys: KeyRing, hook: HookRecord) -> str:
    """The secret of a webhook. Raises `SignatureInvalid` when it was concealed under a key that is forgotten."""
    return keys.reveal(hook.secret, "hook", hook.hook_id.bytes).decode()


def event_of(
    hook: HookRecord, content_type: str, headers: Mapping[str, str], body: bytes, read_json: ReadJson
) -> CloudEvent:
    """The event that a delivery of kind `github` or `generic` makes; its names of headers are in small letters.

    Raises `EventRefused` when the delivery does not say what it must, `SchemaViolation`, `InputFailed`, and what
    `read_json` raises.
    """
    document: dict[str, Any] = {
        "specversion": "1.0",
        "id": _id(hook, headers, body),
        "source": f"/hooks/{hook.hook_id}",
        "type": _github_type(headers) if hook.kind == "github" else DELIVERY_TYPE,
    }
    if content_type:
        document["datacontenttype"] = content_type
    if body:
        put_data(document, content_type, body, read_json)
    shown = {name: value for name, value in headers.items() if name not in _UNSHOWN}
    shown.pop(hook.signature.header.lower(), None)
    seen = CloudEvent({**document, "headers": shown}, {})
    named = hook.templates().render(seen).kwargs
    # A template that gives nothing for this delivery leaves what there was.
    document.update({name: value for name, value in named.items() if value not in (None, "")})
    return CloudEvent.of_document(document)


def _id(hook: HookRecord, headers: Mapping[str, str], body: bytes) -> str:
    name = "X-GitHub-Delivery" if hook.kind == "github" else hook.signature.id_header
    if not name:
        # The same content is the same delivery: who records one cannot make two of it.
        return hashlib.sha256(signed_content(hook.signature, body, headers)).hexdigest()
    given = headers.get(name.lower(), "").strip()
    if not given:
        raise EventRefused(f"the header {name} is missing: it is the delivery's id")
    return given


def _github_type(headers: Mapping[str, str]) -> str:
    event = headers.get("x-github-event", "").strip()
    if not event:
        raise EventRefused("the header X-GitHub-Event is missing: it says what happened")
    return f"com.github.{event}"
