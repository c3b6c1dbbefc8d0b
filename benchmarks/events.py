"""Events: how soon they are stored and run something, how many a second, and what each costs as subscriptions grow.

All times are of this machine's one clock. Processor time is that of all processes, and of each, by what it does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

from benchmarks import filters, functions
from benchmarks.asking import LIMIT_S, Asking
from benchmarks.haul.probes import Usage
from benchmarks.http_load import HttpConnection, request_bytes, series
from benchmarks.systems.headrace import Headrace
from benchmarks.workload import Figures, percentiles
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.events import CONTENT_TYPE, DEFAULT_BUS

WARM_UP = 20
EVENTS = 200
SINGLE, BATCHED, DELIVERED = 3_000, 30_000, 6_000
CONNECTIONS = 32
"""How many publish at once, where events are published one by one."""
UNMATCHED = 4_000
GROWTH: Final = (1, 1_000, 10_000)
"""Subscriptions on the bus."""

_TYPE = "org.example.benchmark"
_SOURCE = "/benchmark"
_SETTLE_S = 60.0
_LOOK_S = 0.03


def event(system: Headrace) -> Figures:
    """An event at a time: from its POST to its acceptance (it is stored), to the first line of the function, and to the
    function's result, asked for with `GET /api/v1/tasks/ID?wait=`.

    `event_stored_start` counts from the acceptance: negative when the function runs before the answer is here.
    """
    accepted_s, started_s, between_s, ended_s = [], [], [], []
    with Ear(system) as ear:
        for place in range(WARM_UP + EVENTS):
            event_id = str(uuid.uuid4())
            sent_at, stored_at, started_at = ear.round(event_id)
            document = ear.result_of(event_id)
            ended_at = time.time()
            if document["state"] != "succeeded" or document["result"] != started_at:
                raise ValueError(f"the task of an event ended as {document}")
            if place >= WARM_UP:
                accepted_s.append(stored_at - sent_at)
                started_s.append(started_at - sent_at)
                between_s.append(started_at - stored_at)
                ended_s.append(ended_at - sent_at)
    return {
        **percentiles("event_accepted", accepted_s),
        **percentiles("event_start", started_s),
        **percentiles("event_stored_start", between_s),
        **percentiles("event_result", ended_s),
    }


def publishing(system: Headrace) -> Figures:
    """Events that nobody waits for: through the SDK in batches and one by one (of many threads), and over HTTP."""
    client = system.client
    figures: Figures = {}
    events = [_event() for _ in range(BATCHED)]
    with _measured(system, "event_batched", BATCHED, figures):
        client.publish_batch(events)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda _: client.publish(_event()), range(CONNECTIONS)))
        with _measured(system, "event_single", SINGLE, figures):
            list(pool.map(lambda _: client.publish(_event()), range(SINGLE)))
    headers = {"Authorization": f"Bearer {system.ready['token']}"}

    async def post(connection: HttpConnection, _number: int) -> None:
        body = json.dumps(_event()).encode()
        request = request_bytes("POST", system.ready["url"], "/api/v1/events", headers, body, content_type=CONTENT_TYPE)
        answer = await connection.ask(request)
        if answer.status != 202:
            raise ValueError(f"an event was answered with {answer.status}: {answer.body[:300]!r}")

    with _measured(system, "event_http", SINGLE, figures):
        taken = series(system.ready["url"], post, count=SINGLE, connections=CONNECTIONS)
    return {**figures, **percentiles("event_http", taken.times_s)}


def deliveries(system: Headrace) -> Figures:
    """Events to a function that does nothing, published at once: until the last one's result has been taken."""
    figures: Figures = {}
    with _subscribed(system, functions.no_op, _TYPE), Asking(system) as asking:
        _deliver(system, asking, 200)
        with _measured(system, "delivery", DELIVERED, figures):
            _deliver(system, asking, DELIVERED)
    return figures


def subscriptions(system: Headrace) -> Figures:
    """The same event while there are more and more subscriptions that it does not match."""
    figures: Figures = {}
    made: list[str] = []
    with Asking(system) as asking:
        for count in GROWTH:
            made += _subscribe_others(system, count - 1 - len(made), len(made), figures)
            _settle(asking, f"at_{count}")
            figures |= _at(system, asking, count)
        figures |= _start_up(system)
    return figures


MEASURES: Final[dict[str, Callable[[Headrace], Figures]]] = {
    "event": event,
    "publishing": publishing,
    "deliveries": deliveries,
    "subscriptions": subscriptions,
    "filters": filters.filters,
}


def _at(system: Headrace, asking: Asking, count: int) -> Figures:
    accepted_s, between_s = [], []
    figures: Figures = {}
    with Ear(system) as ear:
        for place in range(WARM_UP + EVENTS):
            sent_at, stored_at, started_at = ear.round(str(uuid.uuid4()))
            if place >= WARM_UP:
                accepted_s.append(stored_at - sent_at)
                between_s.append(started_at - stored_at)
    figures |= percentiles(f"event_accepted_{count}", accepted_s) | percentiles(f"event_started_{count}", between_s)
    with _measured(system, f"event_unmatched_{count}", UNMATCHED, figures):
        before = _counted(asking, "matched")
        system.client.publish_batch(_event() for _ in range(UNMATCHED))
        _await(lambda: _counted(asking, "matched") >= before + UNMATCHED)
    with _subscribed(system, functions.no_op, _TYPE), _measured(system, f"delivery_{count}", 1_000, figures):
        _deliver(system, asking, 1_000)
    return figures


def _deliver(system: Headrace, asking: Asking, count: int) -> None:
    before = _counted(asking, "succeeded")
    system.client.publish_batch(_event() for _ in range(count))
    _await(lambda: _counted(asking, "succeeded") >= before + count)


def _subscribe_others(system: Headrace, count: int, first: int, figures: Figures) -> list[str]:
    """Make subscriptions of several kinds that fit no event of ours."""
    function_id = system.client.register_function(functions.no_op)
    headers = {"Authorization": f"Bearer {system.ready['token']}"}
    made: list[str] = []

    async def post(connection: HttpConnection, number: int) -> None:
        body = {
            "name": f"other {first + number}",
            "filter": _other_filter(first + number),
            "function_id": function_id,
            "endpoint_id": system.ready["endpoint_id"],
            "input": {"args": ["{{ event.id }}"]},
        }
        request = request_bytes(
            "POST", system.ready["url"], "/api/v1/subscriptions", headers, json.dumps(body).encode()
        )
        answer = await connection.ask(request)
        if answer.status != 201:
            raise ValueError(f"a subscription was answered with {answer.status}: {answer.body[:300]!r}")
        made.append(json.loads(answer.body)["subscription_id"])

    if count > 0:
        with _measured(system, "subscription_created", count, figures):
            series(system.ready["url"], post, count=count, connections=CONNECTIONS)
    return made


def _other_filter(number: int) -> Any:
    """Filters as users write them: most name what they want, some want a part of it."""
    kinds: tuple[Any, ...] = (
        {"exact": {"type": f"org.example.other.{number}"}},
        {"pattern": {"type": ["org.example.benchmark"], "data": {"site": [f"site-{number}"]}}},
        {"all": [{"exact": {"type": _TYPE}}, {"prefix": {"subject": f"runs/{number}/"}}]},
        {"sql": f"type = '{_TYPE}' AND subject = 'sample-{number}'"},
    )
    return kinds[number % len(kinds)]


def _start_up(system: Headrace) -> Figures:
    """A dispatcher that begins: until it delivers, its processor time until then, and its memory."""
    command = [str(Path(sys.executable).with_name("headrace")), "dispatch", "--home", str(system.home)]
    command += ["--nats-url", system.ready["nats_url"]]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watch = threading.Timer(_SETTLE_S, process.kill)
    watch.start()
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "The dispatcher delivers events" in line:
                break
        else:
            raise RuntimeError("a dispatcher did not begin")
        took_s = time.perf_counter() - began
        ticks = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        status = Path(f"/proc/{process.pid}/status").read_text()
        rss_kb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))
    finally:
        watch.cancel()
        process.kill()
        process.communicate()
    return {
        "dispatcher_start_s": took_s,
        "dispatcher_start_cpu_s": ticks / os.sysconf("SC_CLK_TCK"),
        "dispatcher_rss_mb": rss_kb / 1024,
    }


def _settle(asking: Asking, label: str) -> None:
    """Wait until the dispatcher is through with what there was: an event that comes now is not behind others."""
    before = _counted(asking, "matched")
    event_ = _event(type=f"{_TYPE}.{label}")
    asking.ask("POST", "/api/v1/events", event_, accepted=(202,), content_type=CONTENT_TYPE)
    _await(lambda: _counted(asking, "matched") > before)


def _counted(asking: Asking, what: str) -> float:
    mark = f'headrace_deliveries_total{{what="{what}"}} '
    for line in asking.text("GET", "/metrics").splitlines():
        if line.startswith(mark):
            return float(line.removeprefix(mark))
    return 0.0


def _await(done: Callable[[], bool]) -> None:
    until = time.monotonic() + _SETTLE_S
    while not done():
        if time.monotonic() > until:
            raise TimeoutError(f"not done within {_SETTLE_S:.0f} s")
        time.sleep(_LOOK_S)


@contextmanager
def _measured(system: Headrace, name: str, count: int, figures: Figures) -> Iterator[None]:
    """Adds how many a second, and the processor time for each, in all and by process, for `count` of them."""
    before, began = Usage.now(system.role), time.perf_counter()
    yield
    took_s = time.perf_counter() - began
    after = Usage.now(system.role)
    spent = {role: 1e6 * (after.cpu_s[role] - before.cpu_s[role]) / count for role in after.cpu_s}
    figures[f"{name}_per_s"] = count / took_s
    figures[f"{name}_cpu_us"] = sum(spent.values())
    figures.update({f"{name}_{role}_us": each for role, each in spent.items() if each > 1})


def _event(**more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": _SOURCE,
        "type": _TYPE,
        "subject": "sample",
        "data": {"site": "north", "number": 1, "wind": 3.5},
        **more,
    }


@contextmanager
def _subscribed(system: Headrace, function: Callable[..., Any], kind: str, *args: Any) -> Iterator[str]:
    client = system.client
    created = client.create_subscription(
        {
            "name": "benchmark",
            "filter": {"exact": {"type": kind}},
            "function_id": client.register_function(function),
            "endpoint_id": system.ready["endpoint_id"],
            "input": {"args": list(args)},
        }
    )
    subscription_id = str(created["subscription_id"])
    try:
        yield subscription_id
    finally:
        client.delete_subscription(subscription_id)


class Ear:
    """A subscription whose function tells when it starts, over UDP on this machine; removed at the end."""

    def __init__(self, system: Headrace) -> None:
        self._system = system
        self._asking = Asking(system)
        self._ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ear.bind(("127.0.0.1", 0))
        self._ear.settimeout(LIMIT_S)
        self._kind = f"{_TYPE}.heard"
        self._id = ""
        self._subscribed = _subscribed(
            system, functions.tell_start, self._kind, self._ear.getsockname()[1], "{{ event.id }}"
        )

    def __enter__(self) -> Self:
        self._id = self._subscribed.__enter__()
        self._asking.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.__exit__()
        self._ear.close()
        self._subscribed.__exit__(None, None, None)

    def round(self, event_id: str) -> tuple[float, float, float]:
        """Publish an event: when it was sent, when it was stored, and when its function started (unix seconds)."""
        event_ = _event(id=event_id, type=self._kind)
        sent_at = time.time()
        self._asking.ask("POST", "/api/v1/events", event_, accepted=(202,), content_type=CONTENT_TYPE)
        return sent_at, time.time(), self._start_of(event_id)

    def result_of(self, event_id: str) -> dict[str, Any]:
        """The task that the event became, once it has ended."""
        delivery = Delivery(UUID(self._id), DEFAULT_BUS, 0, _SOURCE, event_id)
        task = delivery.task_id(UUID(self._system.ready["endpoint_id"]))
        return self._asking.ask("GET", f"/api/v1/tasks/{task}?wait=5s")

    def _start_of(self, event_id: str) -> float:
        while True:
            label, _, started_at = self._ear.recv(1024).decode().partition(" ")
            if label == event_id:
                return float(started_at)
