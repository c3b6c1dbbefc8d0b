"""Requests to sinks: events in one of CloudEvents' modes, signed and with what the sink asks for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from headrace.bus.eventing.bindings import BATCH_CONTENT_TYPE, to_binary
from headrace.bus.eventing.events import CONTENT_TYPE, CloudEvent
from headrace.bus.eventing.signatures import SignatureForm, sign
from headrace.bus.eventing.sinks.models import Secrets, Sink

USER_AGENT: Final = "headrace"

_UTF8: Final = "; charset=utf-8"


def request_of(
    sink: Sink, secrets: Secrets, events: Sequence[CloudEvent], *, deliveries: Sequence[UUID], now: float | None = None
) -> tuple[dict[str, str], bytes]:
    """Headers and body of one request; names of headers are in small letters. `deliveries` are the ids of the
    deliveries, which no attempt changes."""
    headers, body = _content(sink, events)
    headers |= {
        **{name.lower(): value for name, value in secrets.headers.items()},
        "user-agent": USER_AGENT,
        "accept": "*/*",
    }
    if secrets.token:
        headers["authorization"] = f"Bearer {secrets.token}"
    if len(deliveries) == 1:
        headers["headrace-delivery"] = str(deliveries[0])
    if sink.signature is not None:
        headers |= _signed(sink.signature, secrets, body, deliveries, time.time() if now is None else now)
    return headers, body


def _content(sink: Sink, events: Sequence[CloudEvent]) -> tuple[dict[str, str], bytes]:
    if sink.mode == "batch":
        return {"content-type": BATCH_CONTENT_TYPE + _UTF8}, b"[" + b",".join(each.encode() for each in events) + b"]"
    if sink.mode == "structured":
        return {"content-type": CONTENT_TYPE + _UTF8}, events[0].encode()
    headers, body = to_binary(events[0])
    return {name.lower(): value for name, value in headers.items()}, body


def _signed(
    form: SignatureForm, secrets: Secrets, body: bytes, deliveries: Sequence[UUID], now: float
) -> dict[str, str]:
    headers: dict[str, str] = {}
    if form.timestamp_header:
        headers[form.timestamp_header.lower()] = str(int(now))
    if form.id_header:
        # The same for the same deliveries, so that a receiver knows what is sent again.
        joined = hashlib.sha256(b"".join(each.bytes for each in deliveries)).hexdigest()
        headers[form.id_header.lower()] = str(deliveries[0]) if len(deliveries) == 1 else joined
    headers[form.header.lower()] = sign(form, secrets.secret, body, headers)
    return headers
