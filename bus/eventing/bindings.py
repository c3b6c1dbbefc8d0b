"""CloudEvents as messages with headers: structured and binary, over HTTP and NATS, and many in one body (batch).

Which mode it is the content type alone says: `application/cloudevents-batch…` is a batch, `application/cloudevents…`
one event in the structured form, anything else a binary one, whose attributes are headers (`ce-id` and so on). Nothing
is invented: what is missing is an error. Sources: the CloudEvents HTTP protocol binding 1.0.2, NATS protocol
binding 1.0.2 and JSON format 1.0.2.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from headrace.bus.errors import DecodeError, EventRefused
from headrace.bus.eventing.events import CONTENT_TYPE, CloudEvent, attribute_texts
from headrace.schemas import SchemaViolation, Violation

BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"
MOST_BATCH: Final = 1000
"""Events in one batch: what the server stores at once."""

Mode = Literal["structured", "binary", "batch"]
ReadJson = Callable[[bytes], Any]

_PREFIX = "ce-"
_ATTRIBUTE = re.compile(r"[a-z0-9]+")
_JSON = re.compile(r"application/json|text/json|[^/]+/[^/]+\+json")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def mode_of(content_type: str) -> Mode:
    """The mode of a message with this content type. Raises `EventRefused` when the form is none that is read here."""
    media_type, charset = _parts(content_type)
    if not media_type.startswith("application/cloudevents"):
        return "binary"
    if charset not in ("", "utf-8", "us-ascii"):
        raise EventRefused(f"events are read in UTF-8, not in {charset[:40]!r}")
    for mode, known in (("batch", BATCH_CONTENT_TYPE), ("structured", CONTENT_TYPE)):
        if media_type in (known, known.removesuffix("+json")):
            return mode  # type: ignore[return-value]  # the two literals above
    raise EventRefused(f"events are read as {CONTENT_TYPE} and {BATCH_CONTENT_TYPE}, not as {media_type[:80]!r}")


def read_event(content_type: str, headers: Mapping[str, str], body: bytes, read_json: ReadJson) -> CloudEvent:
    """The one event of a structured or binary message.

    Raises `SchemaViolation`, `DecodeError`, `EventRefused`, and what `read_json` raises.
    """
    if mode_of(content_type) == "structured":
        return CloudEvent.of_document(read_json(body))
    return _binary(content_type, headers, body, read_json)


def read_batch(body: bytes, read_json: ReadJson) -> list[CloudEvent]:
    """The events of a batch. One that is wrong refuses them all: `SchemaViolation` names its position, from 0."""
    documents = read_json(body)
    if not isinstance(documents, list):
        raise EventRefused("a batch is a JSON array of events")
    if len(documents) > MOST_BATCH:
        raise EventRefused(f"a batch has at most {MOST_BATCH} events, this one {len(documents)}")
    events, wrong = [], []
    for place, document in enumerate(documents):
        try:
            events.append(CloudEvent.of_document(document))
        except SchemaViolation as error:
            wrong += [Violation(pointer=f"/{place}{each.pointer}", problem=each.problem) for each in error.violations]
    if wrong:
        raise SchemaViolation("event", tuple(wrong))
    return events


def to_binary(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Headers and body of the binary form."""
    headers = {
        f"{_PREFIX}{name}": encode_header(text)
        for name, text in attribute_texts(event).items()
        if name != "datacontenttype"
    }
    content_type = event.attributes.get("datacontenttype")
    document = event.document
    if document.get("data_base64") is not None:
        body = base64.b64decode(document["data_base64"])
    elif "data" not in document:
        body = b""
    elif isinstance(document["data"], str) and content_type is not None and not _is_json(str(content_type)):
        body = document["data"].encode()
    else:
        # Data that is JSON is of that type also where the event does not say so (JSON format, section 3.1).
        content_type = content_type or "application/json"
        body = json.dumps(document["data"], ensure_ascii=False, separators=(",", ":")).encode()
    if content_type is not None:
        headers["content-type"] = str(content_type)
    return headers, body


def encode_header(text: str) -> str:
    """A text as the value of a header: space, `"`, `%` and all but printable ASCII as `%XX`, the bytes of its UTF-8."""
    return "".join(
        sign if "!" <= sign <= "~" and sign not in '"%' else "".join(f"%{byte:02X}" for byte in sign.encode())
        for sign in text
    )


def decode_header(value: str) -> str:
    """The text of a header's value: without double quotes, and with each `%XX` as the byte it stands for.

    Raises `DecodeError` when that is not UTF-8.
    """
    value = value.strip()
    if quoted := _QUOTED.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    try:
        raw = value.encode("latin-1") if not value.isascii() else value.encode()
        return _PERCENT.sub(lambda found: bytes([int(found[1], 16)]), raw).decode()
    except UnicodeError:
        raise DecodeError(f"{urllib.parse.quote(value)[:80]!r} does not stand for UTF-8") from None


def _binary(content_type: str, headers: Mapping[str, str], body: bytes, read_json: ReadJson) -> CloudEvent:
    document: dict[str, Any] = {}
    for header, value in headers.items():
        name = header.lower()
        if not name.startswith(_PREFIX) or name == "ce-datacontenttype":
            continue
        name = name.removeprefix(_PREFIX)
        if not _ATTRIBUTE.fullmatch(name) or name == "data":
            raise EventRefused(f"the header {header[:60]!r} is no attribute: small letters and digits, and not `data`")
        try:
            document[name] = decode_header(value)
        except DecodeError as error:
            raise SchemaViolation("event", (Violation(pointer=f"/{name}", problem=str(error)),)) from None
    if not document:
        raise EventRefused(
            f"this is no event: its content type is neither {CONTENT_TYPE} (structured) nor {BATCH_CONTENT_TYPE}, and"
            " it has no headers of the binary form, `ce-id`, `ce-source`, `ce-specversion` and `ce-type`"
        )
    if content_type:
        document["datacontenttype"] = content_type
    if body:
        put_data(document, content_type, body, read_json)
    return CloudEvent.of_document(document)


def put_data(document: dict[str, Any], content_type: str, body: bytes, read_json: ReadJson) -> None:
    """Put a body into an event's document: JSON as it is, text as text, anything else in base64.

    Raises what `read_json` raises.
    """
    if _is_json(content_type):
        document["data"] = read_json(body)
        return
    media_type, charset = _parts(content_type)
    if media_type.startswith("text/") and charset in ("", "utf-8", "us-ascii"):
        try:
            document["data"] = body.decode()
            return
        except UnicodeDecodeError:
            pass  # Then it is bytes, whatever it says of itself.
    document["data_base64"] = base64.b64encode(body).decode()


def _is_json(content_type: str) -> bool:
    return _JSON.fullmatch(_parts(content_type)[0]) is not None


def _parts(content_type: str) -> tuple[str, str]:
    """Media type and charset, in small letters."""
    media_type, *parameters = content_type.lower().split(";")
    charset = next((each.partition("=")[2] for each in parameters if each.strip().startswith("charset=")), "")
    return media_type.strip(), charset.strip().strip('"')
