"""From a message of another system to an event."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from headrace.bus.errors import DecodeError, EventRefused
from headrace.bus.eventing.events import MOST_EVENT_BYTES, CloudEvent
from headrace.bus.eventing.feeds.models import MESSAGE_TYPE, FeedRecord
from headrace.bus.eventing.nats_binding import of_binding
from headrace.bus.eventing.templates import InputTemplate, compile_input

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedMessage:
    """A message, whoever held it. `origin` names the stream it is of, as long as that is the same one; `sequence` is
    its place there, 0 where nothing held it. `stored_at` is when it was stored there, or came: unix seconds."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    stored_at: float
    origin: str = ""
    sequence: int = 0

    @classmethod
    def now(cls, subject: str, headers: Mapping[str, str], data: bytes) -> FeedMessage:
        """One that nothing holds, which has just come."""
        return cls(subject=subject, headers=headers, data=data, stored_at=time.time())


class Shaper:
    """Makes events of the messages of one feed."""

    def __init__(self, feed: FeedRecord) -> None:
        """Raises `FilterInvalid`, whose pointer is `/kwargs/NAME`, for a template that is none."""
        self._feed = feed
        self._templates = templates_of(feed)

    def event(self, message: FeedMessage) -> CloudEvent:
        """The event of a message. The same one of a stream always has the same id.

        Raises `EventRefused`, `DecodeError`, `InputFailed` and `SchemaViolation` when it is, or makes, none.
        """
        if len(message.data) > MOST_EVENT_BYTES:
            raise EventRefused(f"a message of {len(message.data)} bytes; an event has at most {MOST_EVENT_BYTES}")
        headers = {name.lower(): value for name, value in message.headers.items()}
        if self._feed.shape.form == "cloudevents":
            return of_binding(headers, message.data)
        return self._plain(message, headers)

    def _plain(self, message: FeedMessage, headers: Mapping[str, str]) -> CloudEvent:
        document: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"{message.origin}:{message.sequence}" if message.sequence else str(uuid.uuid4()),
            "source": f"/feeds/{self._feed.feed_id}",
            "type": MESSAGE_TYPE,
            "subject": message.subject,
            "time": datetime.fromtimestamp(message.stored_at, UTC).isoformat().replace("+00:00", "Z"),
        }
        self._put_data(document, message.data)
        seen = {
            "subject": message.subject,
            "tokens": message.subject.split("."),
            "headers": dict(headers),
            "sequence": message.sequence,
            "data": document.get("data"),
        }
        named = self._templates.render_over({"message": seen}).kwargs
        # A template that gives nothing for this message leaves what there was.
        document.update({name: _text(value) for name, value in named.items() if value not in (None, "")})
        return CloudEvent.of_document(document)

    def _put_data(self, document: dict[str, Any], body: bytes) -> None:
        form = self._feed.shape.data
        if form in ("auto", "json"):
            try:
                document["data"] = _decode(body)
                document["datacontenttype"] = "application/json"
                return
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if form == "json":
                    raise DecodeError(f"the message is not JSON: {error}", raw=body) from error
        if form == "text":
            try:
                document["data"] = body.decode()
                document["datacontenttype"] = "text/plain; charset=utf-8"
                return
            except UnicodeDecodeError as error:
                raise DecodeError("the message is no text in UTF-8", raw=body) from error
        if body:
            document["data_base64"] = base64.b64encode(body).decode()


def templates_of(feed: FeedRecord) -> InputTemplate:
    """What the events of a feed are named by. Raises `FilterInvalid` with the pointer `/kwargs/NAME`."""
    shape = feed.shape
    named = {"type": shape.type, "source": shape.source, "subject": shape.subject, "id": shape.id}
    return compile_input({"kwargs": {name: text for name, text in named.items() if text}})


def _text(value: Any) -> Any:
    """An attribute from what a template gave: a number that names something is its text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
