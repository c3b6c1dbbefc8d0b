"""Values that are too large for a workflow's state: the details of an action say where they are in their place."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.objects import store_of
from headrace.action_provider.providers.action_tasks import ActionTask
from headrace.action_provider.providers.task_results import TaskResults
from headrace.action_provider.state import Service

REFERENCE_BYTES: Final = 400
"""A value as small as this is never replaced by a reference, which takes as much room."""

_TASK_BYTES = 80
_COPIES = 2
"""How often details name a value: in `result` and in `results`."""
_MOST_PER_VALUE_BYTES = 3
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What details show of the tasks of an action."""

    tasks: Sequence[ActionTask]
    """Those in the lists of values: all of them, or the first ones."""
    whole: bytes = b""
    """When these are not all: the list of all, as JSON."""
    document: dict[str, Any]
    """Where that list is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The rule, for the values of one action:

    1. As long as all of them have at most `most_bytes` together, as JSON, they are shown.
    2. Else the largest are replaced by references, one after the other, until the rest fits.
    3. Where the lists would take more than three times as much even so, which takes very many tasks, they have the
       first tasks only, and one reference leads to the list of all.
    """

    most_bytes: int
    base_url: str
    """What the addresses of values begin with."""
    kept_s: float
    """How long results are kept."""

    @classmethod
    def of(cls, service: Service) -> References:
        """The rule of a service."""
        settings = service.settings
        return cls(
            # Details must fit into a message with whatever else they have.
            most_bytes=min(settings.action_value_bytes, service.connection.max_payload // 8),
            base_url=settings.public_url.rstrip("/"),
            kept_s=settings.streams.result_age_s,
        )

    def shown(self, tasks: Sequence[ActionTask]) -> Shown:
        """What to show of these tasks."""
        tasks = self._replaced(tasks)
        room, count = _MOST_PER_VALUE_BYTES * self.most_bytes, 0
        for task in tasks:
            room -= _TASK_BYTES + _COPIES * _shown_size(task)
            if room < 0 and count:
                break
            count += 1
        if count == len(tasks):
            return Shown(tasks=tasks, document={})
        return self._cut(tasks, count)

    def _replaced(self, tasks: Sequence[ActionTask]) -> list[ActionTask]:
        sizes = {task.index: _size(task) for task in tasks if task.has_value}
        elsewhere = {task.index for task in tasks if task.plain is not None and task.plain.reference is not None}
        shown = sum(sizes.values()) - sum(sizes[index] for index in elsewhere)
        for index in sorted(sizes, key=lambda index: (-sizes[index], index)):
            if shown <= self.most_bytes or sizes[index] <= REFERENCE_BYTES:
                break
            if index not in elsewhere:
                elsewhere.add(index)
                shown -= sizes[index]
        return [replace(task, reference=self._to_value(task)) if task.index in elsewhere else task for task in tasks]

    def _cut(self, tasks: Sequence[ActionTask], count: int) -> Shown:
        whole = _encode([{"output": task.output, "task_id": str(task.task_id)} for task in tasks])
        digest = hashlib.sha256(whole).hexdigest()
        last = max((task.stored_at for task in tasks), default=0.0)
        reference = self._document(f"/api/v1/objects/{digest}", len(whole), digest, last)
        return Shown(
            tasks=tasks[:count], whole=whole, document={"results_reference": {**reference, "count": len(tasks)}}
        )

    def _to_value(self, task: ActionTask) -> dict[str, Any]:
        assert task.result is not None and task.plain is not None  # noqa: S101, PT018 - it has a value
        part = task.plain.reference
        digest = hashlib.sha256(task.result.value).hexdigest() if part is None else part.digest
        return self._document(f"/api/v1/tasks/{task.task_id}/result", _size(task), digest, task.stored_at)

    def _document(self, path: str, size: int, digest: str, stored_at: float) -> dict[str, Any]:
        return {
            "href": self.base_url + path,
            "size": size,
            "sha256": digest,
            "expires_at": timestamp(stored_at + self.kept_s),
        }


async def keep_whole(service: Service, owner: str, results: TaskResults, whole: bytes) -> None:
    """Store a list of all values for as long as results are kept. Raises `StreamFull` and `BusUnavailable`."""
    with_results = [each for each in results.collectors if each.results] or results.collectors
    # It stays as long as the first results of this bundle; none of those of an action is much older than the others.
    address = max(with_results, key=lambda each: each.last_stored_at).address
    digest = hashlib.sha256(whole).hexdigest()
    store = store_of(service)
    if await store.use(owner, [digest], address, "r"):
        await store.put(owner, digest, _pieces(whole), most_bytes=len(whole))


def without_whole(details: dict[str, Any]) -> dict[str, Any]:
    """Details of which the list of all values could not be kept."""
    left_out = {"results_left_out": "the object store is full; read the tasks of the group instead"}
    return {**{name: value for name, value in details.items() if name != "results_reference"}, **left_out}


def refers(details: Mapping[str, Any] | None) -> bool:
    """Whether the details of an action say where values are (or hold one that looks as if it did)."""
    text = _encode(details)
    return b'"result_reference"' in text or b'"results_reference"' in text


async def _pieces(whole: bytes) -> AsyncIterator[bytes]:
    yield whole


def _size(task: ActionTask) -> int:
    """How long the value is as JSON."""
    assert task.result is not None and task.plain is not None  # noqa: S101, PT018 - it has a value
    part = task.plain.reference
    return len(task.result.value) if part is None else part.size


def _shown_size(task: ActionTask) -> int:
    if task.reference is not None:
        return REFERENCE_BYTES
    return _size(task) if task.has_value else len("null")
