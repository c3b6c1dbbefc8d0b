"""Webhooks: what other systems announce is believed by its signature, stored once, and only then answered."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from service import RunningService

from headrace.bus.eventing.hooks import concealed
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables
from headrace.sdk import Client, NotFound, RequestRefused

PUSH = json.dumps({"ref": "refs/heads/main", "repository": {"full_name": "lab/analysis"}}).encode()


def signed(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def github(hook: dict[str, Any], body: bytes = PUSH, more: dict[str, str] | None = None) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": signed(hook["secret"], body),
        **(more or {}),
    }


def event(**more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "/s", "type": "org.example.hook", **more}


@pytest.fixture
def sender(service: RunningService) -> httpx.Client:
    """Somebody without a token."""
    return service.http("")


def stored(client: Client, sequence: int) -> dict[str, Any]:
    found: dict[str, Any] = client.explain_filter({"sql": "true"}, sequence)["event"]
    return found


def test_a_delivery_of_github_is_stored_once(client: Client, sender: httpx.Client) -> None:
    hook = client.create_hook({"kind": "github", "subject": "{{ event.data.repository.full_name }}"})
    headers = github(hook)

    first = sender.post(hook["url"], content=PUSH, headers=headers)
    again = sender.post(hook["url"], content=PUSH, headers=headers)

    assert (first.status_code, again.status_code) == (202, 202), first.text
    assert (first.json()["duplicate"], again.json()["duplicate"]) == (False, True)
    assert first.json()["sequence"] == again.json()["sequence"]
    kept = stored(client, first.json()["sequence"])
    assert (kept["type"], kept["id"]) == ("com.github.push", headers["X-GitHub-Delivery"])
    assert (kept["source"], kept["subject"]) == (f"/hooks/{hook['hook_id']}", "lab/analysis")


def test_without_the_secret_nothing_is_believed(
    client: Client, sender: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    hook = client.create_hook({"kind": "github"})
    post, url = sender.post, hook["url"]
    unsigned = {k: v for k, v in github(hook).items() if k != "X-Hub-Signature-256"}
    wrong = github(hook, more={"X-Hub-Signature-256": signed("another secret", PUSH)})
    nobodys = url.replace(hook["hook_id"], str(uuid.uuid4()))

    with caplog.at_level(logging.INFO, "headrace"):
        answers = [
            post(url, content=PUSH, headers=unsigned),
            post(url, content=PUSH, headers=wrong),
            post(url, content=PUSH + b" ", headers=github(hook)),
            post(nobodys, content=PUSH, headers=github(hook)),
            post(url.replace(hook["hook_id"], "x"), content=PUSH, headers=github(hook)),
        ]

    assert [each.status_code for each in answers] == [401, 403, 403, 404, 404]
    said = "\n".join([*(each.text for each in answers), *(record.getMessage() for record in caplog.records)])
    assert hook["hook_id"] in said
    for hidden in (hook["secret"], wrong["X-Hub-Signature-256"], "refs/heads/main", wrong["X-GitHub-Delivery"]):
        assert hidden not in said


def test_what_cannot_be_an_event_is_refused(client: Client, sender: httpx.Client) -> None:
    hook = client.create_hook({"kind": "github", "subject": "{{ event.data.missing }}"})
    large, broken, form = b'"' + b"x" * 600_000 + b'"', b"{", b"payload=%7B%7D"

    def status(body: bytes, **more: str) -> int:
        return sender.post(hook["url"], content=body, headers=github(hook, body, more)).status_code

    assert status(large) == 413
    assert status(broken) == 400
    assert status(PUSH, **{"X-GitHub-Delivery": ""}) == 400
    assert status(form, **{"Content-Type": "application/x-www-form-urlencoded"}) == 415
    assert status(PUSH) == 422
    assert sender.get(hook["url"]).status_code == 405


def test_a_generic_hook_takes_signatures_as_its_owner_says(client: Client, sender: httpx.Client) -> None:
    form = {"header": "X-Signature", "timestamp_header": "X-Time", "tolerance_s": 60}
    hook = client.create_hook({"kind": "generic", "signature": form, "type": "lab.scan", "source": "/scanner"})

    def post(at: int, body: bytes = b"done") -> httpx.Response:
        content = str(at).encode() + b"." + body
        digest = hmac.new(hook["secret"].encode(), content, hashlib.sha256).hexdigest()
        headers = {"X-Signature": digest, "X-Time": str(at), "Content-Type": "text/plain"}
        return sender.post(hook["url"], content=body, headers=headers)

    now = int(time.time())
    answer = post(now)

    assert answer.status_code == 202
    kept = stored(client, answer.json()["sequence"])
    assert (kept["type"], kept["source"], kept["data"]) == ("lab.scan", "/scanner", "done")
    assert post(now).json()["duplicate"] is True
    assert post(now - 3600).status_code == 403


def test_cloudevents_come_in_every_mode(client: Client, sender: httpx.Client) -> None:
    hook = client.create_hook({"kind": "cloudevents"})
    bearer = {"Authorization": f"Bearer {hook['secret']}"}
    one, two = event(data=1), event(data=2)
    binary = {f"ce-{name}": str(value) for name, value in event().items()}
    structured, batch = json.dumps(one).encode(), json.dumps([one, two]).encode()
    kind = "application/cloudevents+json"
    mac = {"X-Hub-Signature-256": signed(hook["secret"], structured)}

    answers = [
        sender.post(hook["url"], content=structured, headers={**bearer, "Content-Type": kind}),
        sender.post(hook["url"], content=structured, headers={**mac, "Content-Type": kind}),
        sender.post(hook["url"], content=b"", headers={**bearer, **binary}),
        sender.post(
            hook["url"],
            params={"access_token": hook["secret"]},
            content=batch,
            headers={"Content-Type": "application/cloudevents-batch+json"},
        ),
    ]

    assert [each.status_code for each in answers] == [202, 202, 202, 202], [each.text for each in answers]
    assert answers[1].json()["duplicate"] is True
    assert [each["duplicate"] for each in answers[3].json()["events"]] == [True, False]
    # A signature covers the body only: attributes that are headers could be anybody's.
    empty = {"X-Hub-Signature-256": signed(hook["secret"], b"")}
    refused = [
        sender.post(hook["url"], content=b"", headers={**empty, **binary}),
        sender.post(hook["url"], content=structured, headers={"Authorization": "Bearer x", "Content-Type": kind}),
        sender.post(hook["url"], content=structured, headers={**bearer, "Content-Type": "application/cloudevents+x"}),
        sender.post(hook["url"], content=b"{}", headers={**bearer, "Content-Type": "application/json"}),
    ]
    assert [each.status_code for each in refused] == [401, 403, 415, 415]


def test_the_handshake_lets_in_whom_the_owner_named(client: Client, sender: httpx.Client) -> None:
    hook = client.create_hook({"kind": "cloudevents", "origins": ["events.example.org"]})
    asked = {"WebHook-Request-Callback": "http://127.0.0.1:9/never", "WebHook-Request-Rate": "120"}

    allowed = sender.options(hook["url"], headers={**asked, "WebHook-Request-Origin": "events.example.org"})
    refused = sender.options(hook["url"], headers={**asked, "WebHook-Request-Origin": "elsewhere.example.org"})

    assert allowed.headers["WebHook-Allowed-Origin"] == "events.example.org"
    assert (allowed.status_code, allowed.headers["WebHook-Allowed-Rate"]) == (204, "*")
    assert refused.status_code == 403
    assert "WebHook-Allowed-Origin" not in refused.headers
    assert sender.options(hook["url"]).headers["Allow"] == "OPTIONS, POST"


def test_a_secret_is_shown_once_and_can_be_replaced(
    client: Client, sender: httpx.Client, service: RunningService
) -> None:
    hook = client.create_hook({"kind": "github", "name": "pushes", "secret": "given by the sender".replace(" ", "-")})
    before = github(hook)

    changed = client.rotate_hook_secret(hook["hook_id"])

    assert hook["secret"] == "given-by-the-sender"
    assert "secret" not in client.get_hook(hook["hook_id"])
    assert all("secret" not in each for each in client.list_hooks())
    assert sender.post(hook["url"], content=PUSH, headers=before).status_code == 403
    assert sender.post(hook["url"], content=PUSH, headers=github(changed)).status_code == 202
    on_disk = b"".join(file.read_bytes() for file in Path(service.home).rglob("*") if file.is_file())
    assert changed["secret"].encode() not in on_disk


def test_a_hook_is_its_owners_and_goes_with_them(client: Client, sender: httpx.Client, service: RunningService) -> None:
    name = f"ada{uuid.uuid4().hex[:6]}"
    with Client(service.url, service.add_user(name)) as ada:
        hook, other = ada.create_hook({"kind": "github"}), ada.create_hook({"kind": "github"})
        ada.delete_hook(other["hook_id"])
        assert [each["hook_id"] for each in ada.list_hooks()] == [hook["hook_id"]]
    for ask in (client.get_hook, client.delete_hook, client.rotate_hook_secret):
        with pytest.raises(NotFound):
            ask(hook["hook_id"])
    assert sender.post(other["url"], content=PUSH, headers=github(other)).status_code == 404

    assert sender.post(hook["url"], content=PUSH, headers=github(hook)).status_code == 202
    client.delete_user(name)

    assert sender.post(hook["url"], content=PUSH, headers=github(hook)).status_code == 404


def test_a_secret_that_cannot_be_read_any_more_is_no_open_door(
    client: Client, sender: httpx.Client, service: RunningService
) -> None:
    hook = client.create_hook({"kind": "github"})

    async def conceal_elsewhere(connection: Connection) -> None:
        # As after `headrace keys rotate` and `headrace keys forget`.
        hooks = Tables.on(connection).hooks
        found = await hooks.need(uuid.UUID(hook["hook_id"]).hex)
        secret = concealed(KeyRing(bytes(32)), found.value.hook_id, hook["secret"])
        await hooks.update(found, msgspec.structs.replace(found.value, secret=secret))

    service.bus(conceal_elsewhere)

    assert sender.post(hook["url"], content=PUSH, headers=github(hook)).status_code == 503
    again = client.rotate_hook_secret(hook["hook_id"])
    assert sender.post(hook["url"], content=PUSH, headers=github(again)).status_code == 202


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"kind": "github", "signature": {"header": "X"}}, "/signature"),
        ({"kind": "generic", "signature": {"signed": "{timestamp}"}}, "/signature"),
        ({"kind": "generic", "signature": {"header": "a b"}}, "/signature/header"),
        ({"kind": "cloudevents", "type": "x"}, "/type"),
        ({"kind": "generic", "origins": ["*"]}, "/origins"),
        ({"kind": "generic", "subject": "{{ event."}, "/subject"),
        ({"kind": "generic", "subject": "{{ data.name }}"}, "/subject"),
        ({"kind": "generic", "secret": "short"}, "/secret"),
    ],
)
def test_a_hook_that_cannot_work_is_refused(client: Client, wrong: dict[str, Any], place: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        client.create_hook(wrong)

    assert [each.pointer for each in caught.value.errors] == [place]
