"""Headrace's other doors: an event that runs a function, and a function run as an action of a workflow.

Requests go over one kept connection of the standard library's HTTP client, which costs least, one after the other. All
times are of this machine's one clock.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
import uuid
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID

from benchmarks import functions
from benchmarks.systems.headrace import Headrace
from benchmarks.workload import Figures, percentiles
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.events import DEFAULT_BUS

WARM_UP = 20
EVENTS = 200
ACTIONS = 200

_EVENT_TYPE = "org.example.benchmark"
_SOURCE = "/benchmark"
_LIMIT_S = 10.0
_POLL_S = 0.005


def event(system: Headrace) -> Figures:
    """An event at a time: from its POST to its acceptance (it is stored), to the first line of the function, and to the
    function's result, asked for with `GET /api/v1/tasks/ID?wait=`.

    `event_stored_start` counts from the acceptance: negative when the function runs before the answer is here.
    """
    accepted_s, started_s, between_s, ended_s = [], [], [], []
    with _Subscription(system) as subscription:
        for place in range(WARM_UP + EVENTS):
            event_id = str(uuid.uuid4())
            sent_at = time.time()
            subscription.publish(event_id)
            stored_at = time.time()
            started_at = subscription.start_of(event_id)
            document = subscription.result_of(event_id)
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


def action(system: Headrace) -> Figures:
    """From `POST …/run` to SUCCEEDED: in its answer, or by asking for the status every 5 ms."""
    times_s, at_once = [], 0
    function_id = system.client.register_function(functions.no_op)
    body = {"endpoint_id": system.ready["endpoint_id"], "tasks": [{"function_id": function_id}]}
    with _Http(system) as http_:
        for place in range(WARM_UP + ACTIONS):
            request = {"request_id": str(uuid.uuid4()), "body": body}
            began = time.perf_counter()
            document = http_.ask("POST", "/actions/compute/v3/run", request, accepted=(202,))
            asked_again = False
            while document["status"] not in ("SUCCEEDED", "FAILED"):
                if time.perf_counter() - began > _LIMIT_S:
                    raise TimeoutError(f"an action was {document['status']} after {_LIMIT_S:.0f} s")
                time.sleep(_POLL_S)
                asked_again = True
                document = http_.ask("GET", f"/actions/compute/v3/{document['action_id']}/status")
            took_s = time.perf_counter() - began
            if document["status"] != "SUCCEEDED":
                raise ValueError(f"an action failed: {document['details']}")
            if place >= WARM_UP:
                times_s.append(took_s)
                at_once += not asked_again
    return {**percentiles("action", times_s), "action_at_once_percent": 100.0 * at_once / ACTIONS}


MEASURES = {"event": event, "action": action}


class _Http:
    """JSON over one connection. Raises `ValueError` for an answer that is not the one expected."""

    def __init__(self, system: Headrace) -> None:
        address = urlsplit(system.ready["url"])
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_LIMIT_S)
        self._headers = {"Authorization": f"Bearer {system.ready['token']}"}

    def __enter__(self) -> Self:
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        accepted: tuple[int, ...] = (200,),
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        headers = self._headers if body is None else {**self._headers, "Content-Type": content_type}
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status not in accepted:
            raise ValueError(f"{method} {path} was answered with {answer.status}: {text[:300]}")
        document: dict[str, Any] = json.loads(text)
        return document


class _Subscription:
    """A subscription whose function tells when it starts, over UDP on this machine; removed at the end."""

    def __init__(self, system: Headrace) -> None:
        self._system = system
        self._http = _Http(system)
        self._ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ear.bind(("127.0.0.1", 0))
        self._ear.settimeout(_LIMIT_S)
        self._id = ""

    def __enter__(self) -> Self:
        client = self._system.client
        created = client.create_subscription(
            {
                "name": "benchmark",
                "filter": {"exact": {"type": _EVENT_TYPE}},
                "function_id": client.register_function(functions.tell_start),
                "endpoint_id": self._system.ready["endpoint_id"],
                "input": {"args": [self._ear.getsockname()[1], "{{ event.id }}"]},
            }
        )
        self._id = str(created["subscription_id"])
        self._http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.__exit__()
        self._ear.close()
        self._system.client.delete_subscription(self._id)

    def publish(self, event_id: str) -> None:
        event = {"specversion": "1.0", "id": event_id, "source": _SOURCE, "type": _EVENT_TYPE, "data": {"number": 1}}
        self._http.ask("POST", "/api/v1/events", event, accepted=(202,), content_type="application/cloudevents+json")

    def start_of(self, event_id: str) -> float:
        """When the event's function started (unix seconds). Raises `TimeoutError`."""
        while True:
            label, _, started_at = self._ear.recv(1024).decode().partition(" ")
            if label == event_id:
                return float(started_at)

    def result_of(self, event_id: str) -> dict[str, Any]:
        """The task that the event became, once it has ended."""
        delivery = Delivery(UUID(self._id), DEFAULT_BUS, 0, _SOURCE, event_id)
        task = delivery.task_id(UUID(self._system.ready["endpoint_id"]))
        return self._http.ask("GET", f"/api/v1/tasks/{task}?wait=5s")
