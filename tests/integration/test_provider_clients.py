"""What public clients send, byte for byte, sent again: no client of theirs is needed for it.

`tests/fixtures/clients` keeps what globus-automate-client was seen to send; `make test-clients` runs the client itself,
and says when it sends something else.
"""

from __future__ import annotations

import http.client
import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from described import check_document
from globus_sdk import gare
from running_pool import RunningPool
from service import RunningService

from headrace.action_provider.errors import ConsentRequired

FIXTURES = Path(__file__).parents[1] / "fixtures" / "clients"
BASE = "/actions/compute/v3"

NAP = "def nap(x):\n    import time\n    time.sleep(x)\n    return x\n"

ANSWERED = {
    "introspect": (200, None),
    "run": (202, None),
    "run again": (200, None),
    "run otherwise": (409, "ActionConflict"),
    "run under other names": (202, None),
    "run by the other route": (202, None),
    "run with a bad body": (422, "RequestValidationError"),
    "status": (200, None),
    "log": (200, None),
    "log on": (200, None),
    "log back": (200, None),
    "log by size": (200, None),
    "resume": (200, None),
    "cancel": (200, None),
    "release": (200, None),
    "status of nothing": (404, "ActionNotFound"),
    "run slowly": (202, None),
    "release at once": (409, "ActionConflict"),
    "cancel what goes on": (200, None),
    "release what was cancelled": (200, None),
    "status with a slash": (404, "ActionNotFound"),
    "run for a stranger": (401, "UnauthorizedRequest"),
}


class Replay:
    """Sends what a client sent, with the ids of this run in the place of those of that one."""

    def __init__(self, service: RunningService, ids: dict[str, str]) -> None:
        self._service = service
        self.ids = ids

    def send(self, sent: dict[str, Any], token: str) -> tuple[int, Any]:
        url = httpx.URL(self._service.url)
        connection = http.client.HTTPConnection(url.host, url.port or 80, timeout=20)
        try:
            body = self._now(sent["body"] or "").encode()
            connection.putrequest(sent["method"], self._now(sent["path"]), skip_accept_encoding=True)
            for name, value in sent["headers"].items():
                connection.putheader(name, str(len(body)) if name == "content-length" else value)
            connection.putheader("authorization", f"Bearer {token}")
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def _now(self, text: str) -> str:
        for name, value in (*self.ids.items(), ("REQUEST", str(uuid.uuid4()))):
            text = text.replace(name, value)
        return text


def test_what_the_public_client_sends_is_answered_as_it_expects(service: RunningService, pool: RunningPool) -> None:
    function_id = service.add_function(NAP, "nap", entry_point="nap")
    replay = Replay(service, {"ENDPOINT": pool.endpoint_id, "FUNCTION": function_id})
    recorded = json.loads((FIXTURES / "globus-automate-client-0.18.0.json").read_text())
    # The first task pays for the start of a worker.
    warm = {"request_id": "warm", "body": {"endpoint_id": pool.endpoint_id, "tasks": [{"function_id": function_id}]}}
    service.http().post(f"{BASE}/run", json=warm)

    for each in recorded:
        name = each["call"]
        (sent,) = each["sent"]
        token = "nobody-knows-this-token" if name == "run for a stranger" else service.token
        status, document = replay.send(sent, token)
        check_document(document)
        expected, code = ANSWERED[name]
        assert status == expected, (name, document)
        if status >= 400:
            assert document["code"] == code
        if name == "run":
            replay.ids["ACTION"] = document["action_id"]
        elif name == "run slowly":
            replay.ids["SLOW"] = document["action_id"]
    assert [each["call"] for each in recorded] == list(ANSWERED)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_round_of_the_toolkits_own_route_tests(service: RunningService, pool: RunningPool, version: str) -> None:
    """Introspect, enumerate, run, status, log, cancel and release, back to back; each time with the same request id."""
    echo = service.add_function("def echo(echo_string):\n    return echo_string\n", "echo", entry_point="echo")
    base = f"/actions/functions/{echo}"
    client, new = service.http(), version == "1.1"

    def path(verb: str, action_id: str) -> str:
        if new:
            return f"{base}/actions/{action_id}" + ("" if verb in ("status", "release") else f"/{verb}")
        return f"{base}/{action_id}/{verb}"

    for _ in range(2):
        # Nobody else may see this function; what everybody may see needs no token.
        assert client.get(f"{base}/").status_code == 200
        assert client.get(f"{base}/actions").status_code == 200
        # It sends a number as the request id.
        body = {"echo_string": "This is a test", "$endpoint": pool.endpoint_id}
        run = client.post(f"{base}/{'actions' if new else 'run'}", json={"request_id": 0, "body": body})
        assert run.status_code == 202, run.text
        action_id = run.json()["action_id"]
        assert client.get(path("status", action_id)).status_code == 200
        assert client.get(path("log", action_id)).status_code == 200
        assert client.post(path("cancel", action_id)).status_code == 200
        assert client.request("DELETE" if new else "POST", path("release", action_id)).status_code == 200


def test_the_sdk_reads_what_an_inactive_action_asks_for() -> None:
    scope = "https://auth.globus.org/scopes/1/action_all[urn:globus:auth:scope:groups.api.globus.org:all]"
    found = gare.to_gare(ConsentRequired("agree to it", required_scope=scope).action_details)

    assert found is not None
    assert found.authorization_parameters.required_scopes == [scope]
    assert found.authorization_parameters.session_message == "agree to it"
