"""Programs publish events straight over NATS, in both modes of the binding, with credentials for nothing else."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from service import RunningService
from waiting import eventually

from headrace.bus.errors import BusUnavailable, PermissionDenied
from headrace.bus.eventing.nats_door import ERROR_CODE_HEADER
from headrace.bus.installation.credentials import Credentials
from headrace.bus.names import publishing_subject
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.schemas import validate
from headrace.sdk import Client, Forbidden, NotFound

STRUCTURED = {"Content-Type": "application/cloudevents+json"}


def event(**more: Any) -> dict[str, Any]:
    return {"id": uuid.uuid4().hex, "source": "/s", "specversion": "1.0", "type": "t", **more}


def signed_in(made: dict[str, Any]) -> Credentials:
    lines = made["creds"].splitlines()
    return Credentials(jwt=lines[1], seed=lines[5], inbox_prefix=made["inbox_prefix"])


def ask(service: RunningService, made: dict[str, Any], *messages: tuple[dict[str, str], bytes], to: str = "") -> Any:
    """What the service answers to these messages, as documents with their statuses."""

    async def work() -> list[tuple[int, Any]]:
        async with Connection(made["nats_urls"], signed_in(made), name="a program") as connection:
            answers = []
            for headers, body in messages:
                answer = await connection.request(to or made["subject"], body, headers=headers, timeout_s=10)
                document = json.loads(answer.data)
                validate("nats-publication", document)
                answers.append((int(answer.headers.get(ERROR_CODE_HEADER, "0")), document))
            return answers

    return service.loop.run(work())


def test_both_modes_are_stored_and_answered_with_the_place(service: RunningService, client: Client) -> None:
    wanted = {"type": "object", "required": ["n"]}
    client.create_bus("door", schemas={"strict": {"schema": wanted}, "lax": {"schema": wanted, "policy": "mark"}})
    made = client.create_bus_credential("door", label="plc", source="/s", ttl_s=600)
    one, odd = event(data={"ä": [1]}), event(type="lax", data=[])
    binary = {"ce-id": "b-1", "CE-Source": "/s/2", "ce-specversion": "1.0", "ce-type": "t", "ce-subject": "%C3%A4"}
    structured = json.dumps(one).encode()
    first, again, second, marked = ask(
        service,
        made,
        (STRUCTURED, structured),
        (STRUCTURED, structured),
        ({**binary, "ce-datacontenttype": "application/json"}, b'{"n": 1}'),
        (STRUCTURED, json.dumps(odd).encode()),
    )
    assert first == (0, {"id": one["id"], "source": "/s", "sequence": 1, "duplicate": False})
    assert again == (0, {**first[1], "duplicate": True})
    assert (second[0], second[1]["sequence"]) == (0, 2)
    assert "object" in marked[1]["problem"]
    stored = service.http().get("/api/v1/events", params={"bus": "door"}).json()["events"]
    assert stored[2]["event"] == one
    assert stored[1]["event"] == {
        "id": "b-1",
        "source": "/s/2",
        "specversion": "1.0",
        "type": "t",
        "subject": "ä",
        "datacontenttype": "application/json",
        "data": {"n": 1},
    }
    assert stored[1]["published_by"] == "urn:headrace:user:admin"

    refusals = [
        ((STRUCTURED, b"{"), 400, "MalformedRequest"),
        (({}, b"{}"), 400, "MalformedRequest"),
        (({"Content-Type": "application/cloudevents-batch+json"}, b"[]"), 400, "MalformedRequest"),
        ((STRUCTURED, b'{"id": "1"}'), 422, "InvalidRequest"),
        ((STRUCTURED, json.dumps(event(type="strict", data={})).encode()), 422, "EventUnfit"),
        ((STRUCTURED, json.dumps(event(source="/other")).encode()), 403, "Forbidden"),
        ((STRUCTURED, json.dumps(event(data="x" * 600_000)).encode()), 413, "PayloadTooLarge"),
    ]
    answers = ask(service, made, *(message for message, _, _ in refusals))
    assert [(status, answer["error"]["code"]) for status, answer in answers] == [
        (status, code) for _, status, code in refusals
    ]
    assert client.get_bus("door")["events"] == 3


def test_a_credential_can_publish_to_its_subject_and_nothing_else(service: RunningService, client: Client) -> None:
    client.create_bus("narrow")
    made = client.create_bus_credential("narrow")
    other = client.create_bus_credential("default")
    statement = json.loads(base64.urlsafe_b64decode(signed_in(made).jwt.split(".")[1] + "=="))["nats"]
    assert statement["pub"] == {"allow": [made["subject"]]}
    assert statement["sub"] == {"allow": [f"{made['inbox_prefix']}.>"]}
    for forbidden in (
        other["subject"],
        publishing_subject("default", made["credential_id"]),
        "event.narrow.t",
        "$JS.API.STREAM.INFO.EVENTS_narrow",
        f"task.{uuid.uuid4().hex}.default.x.{uuid.uuid4().hex}.{uuid.uuid4().hex}",
    ):
        with pytest.raises(PermissionDenied):
            ask(service, made, (STRUCTURED, json.dumps(event()).encode()), to=forbidden)

    heard: list[Message] = []

    async def listen() -> None:
        async with Connection(made["nats_urls"], signed_in(made), name="curious") as curious:
            for subject in (">", "publish.>", f"{other['inbox_prefix']}.>"):
                await curious.subscribe(subject, heard.append)
            await curious.flush()
            async with Connection(other["nats_urls"], signed_in(other), name="a program") as program:
                await program.request(other["subject"], json.dumps(event()).encode(), headers=STRUCTURED)
            await curious.flush()

    service.loop.run(listen())
    assert heard == []


def test_a_credential_is_worth_nothing_once_it_or_the_right_behind_it_is_withdrawn(
    service: RunningService, client: Client
) -> None:
    token = service.add_user("lender", groups=("urn:headrace:group:lenders",))
    client.create_bus("lent", publishers=["urn:headrace:group:lenders"])
    message = (STRUCTURED, json.dumps(event()).encode())
    with Client(service.url, token) as lender:
        kept, dropped = (lender.create_bus_credential("lent", label=label) for label in ("kept", "dropped"))
        assert [each["label"] for each in client.list_bus_credentials("lent")] == ["dropped", "kept"]
        assert ask(service, kept, message)[0][0] == 0
        lender.delete_bus_credential("lent", dropped["credential_id"])

        def is_shut_out() -> bool:
            try:
                return bool(ask(service, dropped, message)[0][0] == 401)
            except (PermissionDenied, BusUnavailable):
                return True

        eventually(is_shut_out, 20, "the end of a credential")
        client.remove_publisher("lent", "urn:headrace:group:lenders")
        assert ask(service, kept, message)[0][0] == 403
        with pytest.raises(NotFound):
            lender.create_bus_credential("lent")
    client.change_bus("lent", subscribers=["public"])
    with Client(service.url, token) as lender:
        with pytest.raises(Forbidden, match="may not publish"):
            lender.create_bus_credential("lent")
        assert [each["label"] for each in lender.list_bus_credentials("lent")] == ["kept"]
    client.delete_bus("lent")
    eventually(lambda: not client.list_bus_credentials("lent"), 10, "no credential")
