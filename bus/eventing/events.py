"""Events: CloudEvents 1.0 in the JSON format, strictly read, and published to a bus.

Nothing is invented: an event without an `id`, or with a `time` that cannot be read, is refused, not repaired. The pair
of `source` and `id` names an event; publishing it twice stores it once (within the server's window for duplicates;
beyond that the deterministic ids of deliveries see to it that nothing runs twice).
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.bus import names
from headrace.bus.errors import DecodeError, PayloadTooLarge
from headrace.bus.names import event_subject, token
from headrace.bus.nats.at_once import store_all_or_none
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.gathering import Store
from headrace.schemas import SchemaViolation, Violation, validate

DEFAULT_BUS: Final = names.DEFAULT_BUS
CONTENT_TYPE: Final = "application/cloudevents+json"
MOST_EVENT_BYTES: Final = 512 * 1024
"""The largest event. CloudEvents asks for at least 64 KiB."""

SCHEMA: Final = "event"
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
PUBLISHER_HEADER: Final = "Headrace-Publisher"
"""Beside a stored event: who published it, a principal as a token. Where a webhook or a schedule did, its owner."""

Scalar = str | int | bool

_NOT_ATTRIBUTES = frozenset({"data", "data_base64"})
_REQUIRED = frozenset({"id", "source", "specversion", "type"})
_NOT_EMPTY = frozenset({"id", "source", "type", "dataschema", "subject"})
_TEXTS = frozenset({*_NOT_EMPTY, "specversion", "datacontenttype", "time", "data_base64"})
_NAME = re.compile(r"[a-z0-9]{1,20}")
_MEDIA_TYPE = re.compile(r"[^/\s;]+/[^/\s;]+(?:;[^\n]*)?\Z")
_MOST_TYPE_BYTES = 512
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LEAP_SECOND = re.compile(r":60(?=[.Zz+-])")
# Control characters and Unicode's non-characters, which CloudEvents strings must not hold.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_WHITE_SPACE = re.compile(r"\s")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event. `attributes` are its context attributes, extensions among them; `document` is all of it, as JSON has
    it. Both are shared: treat them as read-only."""

    document: Mapping[str, Any]
    attributes: Mapping[str, Scalar]

    @classmethod
    def decode(cls, payload: bytes, *, limit: int = MOST_EVENT_BYTES) -> CloudEvent:
        """Read what a publisher sent.

        Raises `PayloadTooLarge`, `DecodeError` when it is not JSON, and `SchemaViolation`, which names every place.
        """
        if len(payload) > limit:
            raise PayloadTooLarge(
                f"an event of {len(payload)} bytes; at most {limit} bytes are taken. Store the data elsewhere and send"
                " a reference to it",
                size=len(payload),
                limit=limit,
            )
        return cls.of_document(_parsed(payload))

    @classmethod
    def of_document(cls, document: Any) -> CloudEvent:
        """Read parsed JSON. Raises `SchemaViolation`."""
        if not _surely_fits(document):
            validate(SCHEMA, document)
        violations = tuple(_violations(document))
        if violations:
            raise SchemaViolation(SCHEMA, violations)
        # An attribute that is null is one that is not set (JSON format, section 2.2); data may well be null.
        return cls.of_valid({k: v for k, v in document.items() if v is not None or k == "data"})

    @classmethod
    def of_stored(cls, payload: bytes) -> CloudEvent:
        """Read what `encode` wrote; nothing is checked again. Raises `DecodeError`."""
        document = _parsed(payload)
        if not isinstance(document, dict) or not {"id", "source", "type"} <= document.keys():
            raise DecodeError("not a stored event", raw=payload)
        return cls.of_valid(document)

    @classmethod
    def of_valid(cls, document: dict[str, Any]) -> CloudEvent:
        """From a document that is known to be an event."""
        return cls(document, {k: v for k, v in document.items() if k not in _NOT_ATTRIBUTES})

    @property
    def id(self) -> str:
        """The id, which names the event together with its source."""
        return str(self.attributes["id"])

    @property
    def source(self) -> str:
        """The context in which it happened, a URI reference."""
        return str(self.attributes["source"])

    @property
    def type(self) -> str:
        """What happened."""
        return str(self.attributes["type"])

    def encode(self) -> bytes:
        """The event in the structured JSON form, as it is stored."""
        return _to_json(self.document)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An event's place on its bus. `duplicate`: it was there before, under this sequence."""

    sequence: int
    duplicate: bool
    problem: str = ""
    """In which way it does not fit the schema of its type, where the bus takes it nevertheless."""


async def publish(store: Store, event: CloudEvent, *, bus: str = DEFAULT_BUS, publisher: str = "") -> Published:
    """Store an event on a bus; returns when it is stored. `publisher` is the principal who is noted beside it.

    Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`; after the latter it may or may not be stored, and
    publishing it again is safe.
    """
    headers = _headers(message_id(event, bus), publisher)
    stored = await store.store(event_subject(bus, event.type), event.encode(), headers=headers)
    return Published(sequence=stored.sequence, duplicate=stored.duplicate)


async def publish_together(
    connection: Connection,
    events: Sequence[CloudEvent],
    *,
    bus: str = DEFAULT_BUS,
    publisher: str = "",
    single: Store | None = None,
) -> list[Published]:
    """Store up to 1 000 events in this order with one sync: all of them, or none. `single` is where one alone goes.

    Where some were there before, the others are. Raises as `publish` does.
    """
    if len(events) == 1:
        return [await publish(single or connection, events[0], bus=bus, publisher=publisher)]
    # The same event twice in one batch is stored once: the server would refuse the batch.
    unique = {message_id(event, bus): event for event in events}
    messages = [
        (event_subject(bus, event.type), event.encode(), _headers(name, publisher)) for name, event in unique.items()
    ]
    stored = dict(zip(unique, await store_all_or_none(connection, messages), strict=True)) if messages else {}
    published = []
    for event in events:
        name = message_id(event, bus)
        again = stored[name].duplicate or unique.pop(name, None) is None
        published.append(Published(sequence=stored[name].sequence, duplicate=again))
    return published


def message_id(event: CloudEvent, bus: str) -> str:
    """What the server recognises a repeated event by."""
    return message_id_of(event.source, event.id, bus)


def message_id_of(source: str, event_id: str, bus: str) -> str:
    """The same, of an event of which no more is known."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (bus, source, event_id):
        data = part.encode()
        # The length goes first: ("ab", "c") and ("a", "bc") must not meet.
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def _headers(name: str, publisher: str) -> dict[str, str]:
    headers = {MESSAGE_ID_HEADER: name, "Content-Type": CONTENT_TYPE}
    if publisher:
        headers[PUBLISHER_HEADER] = token(publisher)
    return headers


def attribute_texts(event: CloudEvent) -> dict[str, str]:
    """The attributes in the canonical text form of CloudEvents, in which filters compare them."""
    return {name: _text(value) for name, value in event.attributes.items()}


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON does not tell 1.0 from 1, and the only numbers of CloudEvents are integers.
    return str(int(value)) if isinstance(value, float) else str(value)


def _parsed(payload: bytes) -> Any:
    try:
        return _from_json(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"the event is not JSON: {error}", raw=payload) from error


def _surely_fits(document: Any) -> bool:
    """Whether an event satisfies the schema. Where this says no, the schema says whether it does, and what is wrong."""
    if type(document) is not dict or document.get("specversion") != "1.0" or not document.keys() >= _REQUIRED:
        return False
    for name, value in document.items():
        kind = type(value)
        if name == "data":
            continue
        if kind is str:
            if not value and name in _NOT_EMPTY:
                return False
        elif (kind is not bool and (kind is not int or not -(2**31) <= value < 2**31)) or name in _TEXTS:
            return False
        if not _NAME.fullmatch(name) and name != "data_base64":
            return False
    media_type = document.get("datacontenttype")
    return media_type is None or _MEDIA_TYPE.match(media_type) is not None


def _violations(document: Mapping[str, Any]) -> list[Violation]:
    """What a JSON schema cannot say, or not in words that help."""
    found: list[Violation] = []
    if "data" in document and document.get("data_base64") is not None:
        found.append(Violation(pointer="/data_base64", problem="an event has either data or data_base64, not both"))
    for name, value in document.items():
        problem = None if name == "data" or not isinstance(value, str) else _text_problem(name, value)
        if problem:
            found.append(Violation(pointer=f"/{name}", problem=problem))
    return found


def _text_problem(name: str, value: str) -> str | None:
    if name == "data_base64":
        return _base64_problem(value)
    if name == "time":
        return _time_problem(value)
    return _attribute_problem(name, value)


def _attribute_problem(name: str, value: str) -> str | None:
    if _UNFIT.search(value):
        return "control characters are not allowed in an attribute"
    if name == "type" and len(value.encode()) > _MOST_TYPE_BYTES:
        return f"a type of more than {_MOST_TYPE_BYTES} bytes; it is part of a subject on the bus"
    if name in ("source", "dataschema") and _WHITE_SPACE.search(value):
        return "a URI holds no white space; write it as %20"
    if name == "dataschema" and not _SCHEME.match(value):
        return "not an absolute URI: it has no scheme"
    return None


def _base64_problem(value: str) -> str | None:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        return f"not base64: {error}"
    return None


def _time_problem(value: str) -> str | None:
    problem = f"{value[:60]!r} is not a time as RFC 3339 has it, such as 2026-02-28T12:30:00Z"
    if not _RFC3339.fullmatch(value):
        return problem
    # RFC 3339 knows leap seconds, and any number of decimals; the parser does not.
    simple = re.sub(r"\.\d+", "", _LEAP_SECOND.sub(":59", value)).upper()
    try:
        datetime.datetime.fromisoformat(simple)
    except ValueError:
        return problem
    return None
