"""CloudEvents as NATS messages, in the two modes of the binding. Source: CloudEvents' NATS protocol binding 1.0.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.bus.errors import DecodeError, EventRefused
from headrace.bus.eventing.bindings import mode_of, read_event
from headrace.bus.eventing.events import CloudEvent

_decode = msgspec.json.Decoder().decode


def of_binding(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """The event of a message in the structured or the binary mode of the NATS binding; names of headers are small.

    Raises `EventRefused`, `DecodeError` and `SchemaViolation`.
    """
    # In the binary mode the content type of the data has a header of its own; `Content-Type` says the mode alone.
    content_type = headers.get("content-type", "")
    mode = mode_of(content_type)
    if mode == "batch":
        raise EventRefused("the NATS binding has no batches: send one event in a message")
    if mode == "binary":
        content_type = headers.get("ce-datacontenttype", content_type)
    return read_event(content_type, headers, body, _json)


def _json(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"the message is not JSON: {error}", raw=body) from error
