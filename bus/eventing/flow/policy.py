"""How the deliveries of a subscription flow, as its owner wants it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from headrace.bus.data.json_values import encode_json
from headrace.bus.errors import FilterInvalid

_MOST_DROPPED: Final = 16

_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")


class Rate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many deliveries begin: `per_second` in the long run, `burst` at once after a quiet time."""

    per_second: float
    burst: int = 1


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Up to `size` events go to the function in one call, which gets a list of them."""

    size: int
    window_s: float = 0.0
    """So long an event waits for others; 0 takes what is there."""
    partial_failures: bool = False
    """The function says which events of a batch failed: `{"batchItemFailures": [{"itemIdentifier": id}, ...]}`."""
    bisect: bool = False
    """A batch that fails is cut in two, down to the event that makes it fail."""


class Flow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits, order and batches of the deliveries of one subscription. What is not set is not limited."""

    concurrency: int | None = None
    """At most so many calls at once: in the endpoint's queue, or running."""
    rate: Rate | None = None
    order_by: str | None = None
    """Events with the same value here are delivered in their order, one at a time: an attribute, or a path in `data`
    such as `data.sensor.id`."""
    when_failing: Literal["park", "skip"] = "park"
    """Whether later events of its key wait for one that failed, or pass it."""
    batch: Batch | None = None
    share: str | None = None
    """Subscriptions of one owner with the same word here have `concurrency` and `rate` together."""
    priority: int = 0
    """Which subscription of a share goes first: the larger number."""


class Pause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Deliveries rest. Events that come meanwhile are kept for later, or dropped."""

    events: Literal["keep", "drop"]
    since: float
    after: int
    """The last message of DELIVERIES by then: later ones came meanwhile."""


class Pauses(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The pause of a subscription, and what is left of earlier ones."""

    now: Pause | None = None
    resumed: int = 0
    """The last message of DELIVERIES when it went on the last time."""
    dropped: tuple[tuple[int, int], ...] = ()
    """Messages of DELIVERIES, from after the first number up to the second, that came in a pause and are dropped."""

    def begin(self, at: float, end: int, *, drop: bool) -> Pauses:
        """Rest from now on; `end` is the last message of DELIVERIES."""
        began = self.now or Pause(events="keep", since=at, after=end)
        now = msgspec.structs.replace(began, events="drop" if drop else "keep")
        return msgspec.structs.replace(self, now=now)

    def end(self, end: int, *, drop: bool) -> Pauses:
        """Go on; `drop` drops what came in the pause."""
        if self.now is None:
            return self
        dropped = ((self.now.after, end),) if drop else ()
        return Pauses(resumed=end, dropped=(*self.dropped, *dropped)[-_MOST_DROPPED:])


Key = Callable[[Mapping[str, Any]], str | None]


def compile_order(order_by: str | None) -> Key | None:
    """What gives the key of an event's document; None for one that has none, which has no order.

    Raises `FilterInvalid`.
    """
    if order_by is None:
        return None
    first, *path = order_by.split(".")
    if first == "data" and path:
        if not all(path):
            raise FilterInvalid(f"order_by: {order_by!r} has an empty step; write it like data.sensor.id")
        return lambda document: _key(_found(document.get("data"), path))
    if path or not _ATTRIBUTE.fullmatch(first) or first in ("data", "data_base64"):
        raise FilterInvalid(
            f"order_by: {order_by[:80]!r} is neither an attribute, such as subject, nor a path such as data.sensor.id"
        )
    return lambda document: _key(document.get(first))


def _found(value: Any, path: list[str]) -> Any:
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdecimal() and len(step) < 10:
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def _key(value: Any) -> str | None:
    """A text is its own key; what is equal as JSON has one key, and 1 is another one than "1"."""
    if value is None:
        return None
    return value if isinstance(value, str) and not value.startswith(("=", '"')) else f"={_canonical(value)}"


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: value[name] for name in sorted(value)}
    return encode_json(value).decode()
