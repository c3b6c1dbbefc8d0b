"""An action provider under load: runs and status requests per second, over one connection and over fifty.

The same client asks Headrace and the sample provider of the public toolkit. A run counts when its action has SUCCEEDED:
in the answer, or by asking for the status every 5 ms.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from benchmarks.haul.probes import Usage
from benchmarks.http_load import HttpConnection, request_bytes, series
from benchmarks.workload import Figures, percentiles

PROVIDER: Final = "provider"
WARM_UP = 200
RUNS = {1: 300, 50: 3_000}
"""How many, by connections."""
STATUSES = {1: 1_000, 50: 10_000}

_LIMIT_S = 10.0
_POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a provider is, and what its actions need."""

    url: str
    path: str
    token: str
    body: dict[str, Any]


@runtime_checkable
class HasProvider(Protocol):
    """A system with an action provider."""

    def provider(self) -> Door:
        """Where it is."""

    def role(self, command: Sequence[str]) -> str:
        """What a process of the system does, by its command line."""


def provider(system: HasProvider) -> Figures:
    """Runs, then status requests of actions that have ended; and the processor time of each, all processes together."""
    door = system.provider()
    runs = _Runs(door)
    series(door.url, runs.run, count=WARM_UP, connections=10)
    figures: Figures = {}
    for connections, count in RUNS.items():
        before = Usage.now(system.role)
        taken = series(door.url, runs.run, count=count, connections=connections)
        figures |= percentiles(f"provider_run_{connections}", taken.times_s)
        figures[f"provider_runs_{connections}_per_s"] = taken.per_s
        figures |= _cost(f"provider_run_{connections}", Usage.now(system.role), before, count)
    for connections, count in STATUSES.items():
        before = Usage.now(system.role)
        taken = series(door.url, runs.status, count=count, connections=connections)
        figures |= percentiles(f"provider_status_{connections}", taken.times_s)
        figures[f"provider_statuses_{connections}_per_s"] = taken.per_s
        figures |= _cost(f"provider_status_{connections}", Usage.now(system.role), before, count)
    return figures


class _Runs:
    """Pieces of work for the load generator; remembers the actions that ended."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._headers = {"Authorization": f"Bearer {door.token}"}
        self._ended: list[str] = []

    async def run(self, connection: HttpConnection, _number: int) -> None:
        """Start an action and see it end."""
        body = json.dumps({"request_id": str(uuid.uuid4()), "body": self._door.body}).encode()
        began = time.perf_counter()
        document = await self._ask(connection, "POST", "run", 202, body)
        while document["status"] not in ("SUCCEEDED", "FAILED"):
            if time.perf_counter() - began > _LIMIT_S:
                raise TimeoutError(f"an action was {document['status']} after {_LIMIT_S:.0f} s")
            await asyncio.sleep(_POLL_S)
            document = await self._ask(connection, "GET", f"{document['action_id']}/status", 200)
        if document["status"] != "SUCCEEDED":
            raise ValueError(f"an action failed: {document['details']}")
        self._ended.append(document["action_id"])

    async def status(self, connection: HttpConnection, number: int) -> None:
        """Ask for the status of an action that has ended."""
        action_id = self._ended[number % len(self._ended)]
        document = await self._ask(connection, "GET", f"{action_id}/status", 200)
        if document["status"] != "SUCCEEDED":
            raise ValueError(f"an action that had succeeded is {document['status']}")

    async def _ask(
        self, connection: HttpConnection, method: str, place: str, accepted: int, body: bytes = b""
    ) -> dict[str, Any]:
        path = f"{self._door.path}/{place}"
        answer = await connection.ask(request_bytes(method, self._door.url, path, self._headers, body))
        if answer.status != accepted:
            raise ValueError(f"{method} {path} was answered with {answer.status}: {answer.body[:300]!r}")
        document: dict[str, Any] = json.loads(answer.body)
        return document


def _cost(name: str, after: Usage, before: Usage, count: int) -> Figures:
    """Processor time for each, in microseconds: all processes but the client, and by what they do."""
    spent = {
        role: 1e6 * (cpu_s - before.cpu_s[role]) / count for role, cpu_s in after.cpu_s.items() if role != "client"
    }
    return {f"{name}_cpu_us": sum(spent.values()), **{f"{name}_{role}_us": each for role, each in spent.items()}}
