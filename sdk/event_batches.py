"""Events on their way to the service, made whole and cut into batches; and what a request says of filters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from headrace.sdk.documents import Id, check_json, id_text, quoted

EVENT_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"

DEFAULT_BUS: Final = "default"

_MOST_EVENTS: Final = 1000
_MOST_BYTES: Final = 4_000_000

_encode = msgspec.json.Encoder().encode


def whole_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with `specversion`, and an `id` if it has none. Raises what `check_json` raises, and `TypeError`."""
    if not isinstance(event, Mapping):
        raise TypeError(f"an event must be a dict, not {type(event).__name__}")
    document = {"specversion": "1.0", "id": str(uuid4()), **event}
    check_json(document)
    return document


def events_of(bus: str) -> str:
    """Where events of a bus are sent to."""
    return "events" if bus == DEFAULT_BUS else f"buses/{quoted(bus, 'bus')}/events"


def batches_of(events: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The events in lists that one request takes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for event in events:
        own = len(_encode(event)) + 1
        if batch and (len(batch) == _MOST_EVENTS or size + own > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += own
    if batch:
        yield batch


def filter_or_subscription(wanted: Mapping[str, Any] | Sequence[Any] | Id) -> dict[str, Any]:
    """How a request names a filter: as it is, or by the subscription that has it."""
    if isinstance(wanted, (str, UUID)):
        return {"subscription_id": id_text(wanted, "subscription_id")}
    check_json(wanted)
    return {"filter": wanted}


def which_letters(which: Mapping[str, Any]) -> dict[str, Any]:
    """How a request names dead letters. Raises `TypeError` for a name that means nothing."""
    unknown = which.keys() - {"dead_letter_ids", "subscription_id", "code", "filter", "limit"}
    if unknown:
        raise TypeError(f"dead letters cannot be chosen by {sorted(unknown)[0]!r}")
    chosen = {name: value for name, value in which.items() if value is not None}
    if "dead_letter_ids" in chosen:
        chosen["dead_letter_ids"] = [id_text(each, "dead_letter_ids") for each in chosen["dead_letter_ids"]]
    if "subscription_id" in chosen:
        chosen["subscription_id"] = id_text(chosen["subscription_id"], "subscription_id")
    check_json(chosen)
    return chosen
