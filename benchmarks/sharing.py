"""An endpoint that is shared: how long one user's single task takes while another user has a backlog there."""

from __future__ import annotations

import time
import uuid

import httpx

from benchmarks import functions
from benchmarks.systems.headrace import Headrace
from benchmarks.workload import Figures, percentiles
from headrace.sdk import Client, Executor

WARM_UP = 10
SINGLE = 50
BACKLOG = 100_000
"""Tasks of 10 ms: far more than is done while the others are measured."""


def sharing(system: Headrace) -> Figures:
    """Single no-ops of the owner, one after the other: alone, and while another user has 100 000 tasks of 10 ms queued.

    The difference is what a neighbour's backlog costs. The backlog is cancelled at the end.
    """
    endpoint_id, name = system.ready["endpoint_id"], f"neighbour-{uuid.uuid4().hex[:8]}"
    headers = {"Authorization": f"Bearer {system.ready['token']}"}
    with httpx.Client(base_url=f"{system.ready['url']}/api/v1/", headers=headers, trust_env=False) as owner:
        owner.patch(f"endpoints/{endpoint_id}", json={"public": True}).raise_for_status()
        owner.post("users", json={"name": name}).raise_for_status()
        token = owner.post("tokens", json={"user": name}).raise_for_status().json()["token"]
    with Client(system.ready["url"], token) as neighbour, Executor(endpoint_id, neighbour) as backlog:
        alone_s = _singles(system)
        first, *_ = [backlog.submit(functions.ten_ms) for _ in range(BACKLOG)]
        first.result()
        behind_s = _singles(system)
        backlog.shutdown(wait=False, cancel_futures=True)
    return {**percentiles("single_alone", alone_s), **percentiles("single_shared", behind_s)}


def _singles(system: Headrace) -> list[float]:
    times_s = []
    for place in range(WARM_UP + SINGLE):
        began = time.perf_counter()
        system.submit(functions.no_op).result()
        if place >= WARM_UP:
            times_s.append(time.perf_counter() - began)
    return times_s


MEASURES = {"sharing": sharing}
