"""Lists of actions while a user's actions become many: what a page costs, of each state and role, first and last."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import statistics
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from benchmarks.haul.probes import Point, steps
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.store.action_keys import new_action_id
from headrace.bus.store.actions import ActionRecord, Actions

_MOST = 100_000
_WRITERS = 64
_ASKED = 50
_PATH = "/actions/compute/v3"
_ADMIN = "urn:headrace:user:admin"
_OTHER = "urn:headrace:user:somebody"
_ONE_FAILED_IN = 50
_ONE_SHARED_IN = 100


def actions(haul: Any) -> Iterator[Point]:
    """Actions of one user grow to 100 000: 98 of 100 have succeeded, 2 have failed; each hundredth is somebody
    else's, who lets the user watch it."""
    stored = 0
    for size in steps(_MOST, 1_000, haul.factor):
        before, began = haul.usage(), time.perf_counter()
        numbers = range(stored, size)
        haul.bus(lambda connection, keys, numbers=numbers: _store(connection, keys, numbers))
        took_s, after = time.perf_counter() - began, haul.usage()
        figures = {"stored_per_s": (size - stored) / took_s} | after.cost(before, size - stored, "nats")
        stored = size
        asked = _Lists(haul.system.ready)
        figures["succeeded_ms"] = asked.page_ms("status=succeeded")
        figures["failed_ms"] = asked.page_ms("status=failed")
        figures["active_ms"] = asked.page_ms("status=active")
        figures["watched_ms"] = asked.page_ms("status=succeeded,failed&roles=monitor_by")
        figures |= asked.walk("status=succeeded&limit=500")
        yield Point("actions of a user", stored, figures | haul.usage().memory("nats", "service"))


async def _store(connection: Connection, _keys: ServiceKeys, numbers: range) -> None:
    store, left = Actions(connection), iter(numbers)

    async def write() -> None:
        for number in left:
            creator = _OTHER if number % _ONE_SHARED_IN == 0 else _ADMIN
            request_id = uuid.uuid4().hex
            now = time.time()
            record = ActionRecord(
                action_id=f"tg_{new_action_id(_PATH, creator, request_id)}",
                provider=_PATH,
                creator=creator,
                request_id=request_id,
                request_digest="0" * 64,
                started_at=now,
                monitor_by=(_ADMIN,) if creator == _OTHER else (),
                status="FAILED" if number % _ONE_FAILED_IN == 1 else "SUCCEEDED",
                display_status="1 task done",
                details={"result": [number], "results": [{"output": number, "task_id": str(uuid.uuid4())}]},
                ended_at=now,
            )
            # What a run that ends at once writes.
            begun = await store.start(record)
            await store.finish(begun.record, record)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_WRITERS):
            tasks.create_task(write())


class _Lists:
    """Asks for pages over one kept connection."""

    def __init__(self, ready: dict[str, Any]) -> None:
        address = urlsplit(ready["url"])
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30.0)
        self._headers = {"Authorization": f"Bearer {ready['token']}"}

    def page_ms(self, query: str) -> float:
        """A first page of at most a hundred, the median."""
        times_s = [self._ask(f"{_PATH}/actions?{query}")[0] for _ in range(_ASKED)]
        return 1e3 * statistics.median(times_s)

    def walk(self, query: str) -> dict[str, float]:
        """Every page of a list, to its end."""
        address, times_s, found = f"{_PATH}/actions?{query}", [], 0
        while address:
            took_s, count, address = self._ask(address)
            times_s.append(took_s)
            found += count
        return {
            "walked": float(found),
            "page_of_500_ms": 1e3 * statistics.median(times_s),
            "last_pages_ms": 1e3 * statistics.median(times_s[-5:]),
        }

    def _ask(self, address: str) -> tuple[float, int, str]:
        began = time.perf_counter()
        self._connection.request("GET", address, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        took_s = time.perf_counter() - began
        if answer.status != 200:
            raise ValueError(f"{address} was answered with {answer.status}: {body[:300]!r}")
        link = re.match(r'<([^>]+)>; rel="next"', answer.getheader("Link", ""))
        return took_s, len(json.loads(body)), link[1] if link else ""
