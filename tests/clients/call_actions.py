"""Runs in the public client's environment: calls a provider with `ActionClient`, and prints what came of it.

    call_actions.py URL TOKEN BODY SLOW_BODY

The output is one JSON document: `calls`, what each call gave, and `requests`, what was sent for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import globus_sdk
import requests
from globus_automate_client import ActionClient
from globus_sdk import gare

SENT: list[dict[str, Any]] = []
SHOWN = ("accept", "accept-encoding", "connection", "content-length", "content-type", "transfer-encoding")
GROUP = "urn:globus:groups:id:6a0d7b0e-1111-4222-8333-444455556666"


def main(url: str, token: str, body: dict[str, Any], slow_body: dict[str, Any]) -> None:
    """Every method of the client, in an order in which each has something to do."""
    listen()
    calls: dict[str, Any] = {}

    def call(name: str, method: Callable[[], Any]) -> dict[str, Any]:
        before = len(SENT)
        try:
            answer = method()
            calls[name] = {"status": answer.http_status, "data": answer.data}
        except globus_sdk.GlobusAPIError as error:
            calls[name] = {"status": error.http_status, "code": error.code, "data": error.raw_json}
        calls[name]["requests"] = SENT[before:]
        return dict(calls[name]["data"])

    client = connect(url, token)
    calls["scope"] = client.action_scope
    call("introspect", client.introspect)
    run = {"request_id": "request 1", "label": "a label", "tags": ["a tag"], "monitor_by": [GROUP]}
    action = call("run", lambda: client.run(body, **run))["action_id"]
    call("run again", lambda: client.run(body, **run))
    call("run otherwise", lambda: client.run(body, **{**run, "label": "another"}))
    call("run under other names", lambda: client.run(body, run_monitors=[GROUP], run_managers=[GROUP]))
    call("run by the other route", lambda: client.run(body, force_path="/actions"))
    call("run with a bad body", lambda: client.run({"nothing": 1}))
    call("status", lambda: client.status(action))
    first = call("log", lambda: client.log(action, limit=2))
    call("log on", lambda: client.log(action, limit=2, marker=first["marker"]))
    call("log back", lambda: client.log(action, limit=1, reverse_order=True))
    call("log by size", lambda: client.log(action, per_page=3))
    call("resume", lambda: client.resume(action))
    call("cancel", lambda: client.cancel(action))
    call("release", lambda: client.release(action))
    call("status of nothing", lambda: client.status(action))
    slow = call("run slowly", lambda: client.run(slow_body))["action_id"]
    call("release at once", lambda: client.release(slow))
    call("cancel what goes on", lambda: client.cancel(slow))
    call("release what was cancelled", lambda: client.release(slow))
    call("status with a slash", lambda: connect(f"{url}/", token).status(action))
    call("run for a stranger", lambda: connect(url, "nobody-knows-this-token").run(body))
    sys.stdout.write(json.dumps(calls))


def connect(url: str, token: str) -> ActionClient:
    """A client that does not try again: what comes first is what counts."""
    client = ActionClient.new_client(url, globus_sdk.AccessTokenAuthorizer(token))
    client.transport.max_retries = 0
    return client


def listen() -> None:
    """Note what is sent, as it is sent."""
    send = requests.adapters.HTTPAdapter.send

    def noted(self: Any, request: Any, **more: Any) -> Any:
        text = request.body.decode() if isinstance(request.body, bytes) else request.body
        headers = {name.lower(): value for name, value in request.headers.items()}
        shown = {name: headers[name] for name in SHOWN if name in headers}
        SENT.append({"method": request.method, "path": request.path_url, "headers": shown, "body": text})
        return send(self, request, **more)

    requests.adapters.HTTPAdapter.send = noted


def consent(details: dict[str, Any]) -> None:
    """What the older SDK reads from the details of an INACTIVE action."""
    found = gare.to_gare(details)
    sys.stdout.write(json.dumps(None if found is None else found.to_dict()))


if __name__ == "__main__":
    if sys.argv[1] == "consent":
        consent(json.loads(sys.argv[2]))
    else:
        main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4]))
