"""Signatures of webhooks, and the events that deliveries make."""

from __future__ import annotations

import hashlib
import hmac
import json
import string
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import EventRefused, InputFailed, SignatureInvalid
from headrace.bus.eventing.hooks import HookRecord, concealed, event_of, new_secret, revealed
from headrace.bus.eventing.signatures import GITHUB, SignatureForm, sign, verify
from headrace.bus.keys import KeyRing
from headrace.schemas import SchemaViolation

SECRETS = st.text(string.ascii_letters + string.digits + "_-+/=", min_size=16, max_size=80)
TIMED = SignatureForm(
    header="Webhook-Signature",
    encoding="base64",
    prefix="v1,",
    signed="{id}.{timestamp}.{body}",
    timestamp_header="Webhook-Timestamp",
    id_header="Webhook-Id",
)
FORMS = st.sampled_from([GITHUB, SignatureForm(header="X-Sig"), SignatureForm(encoding="base64"), TIMED])


@given(FORMS, SECRETS, st.binary(max_size=300))
def test_what_is_signed_is_believed_and_nothing_else(form: SignatureForm, secret: str, body: bytes) -> None:
    headers = {"webhook-timestamp": "1000", "webhook-id": "msg_1"}
    signed = {**headers, form.header.lower(): sign(form, secret, body, headers)}

    assert verify(form, secret, body, signed, now=1000.0) == "genuine"
    assert verify(form, secret + "x", body, signed, now=1000.0) == "wrong"
    assert verify(form, secret, body + b"x", signed, now=1000.0) == "wrong"
    assert verify(form, secret, body, headers, now=1000.0) == "missing"


@given(st.text(max_size=200))
def test_no_other_text_is_a_signature(text: str) -> None:
    assert verify(GITHUB, "It's a Secret", b"body", {"x-hub-signature-256": text}, now=0.0) in ("missing", "wrong")


def test_the_example_of_githubs_documentation_is_believed() -> None:
    headers = {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}

    assert verify(GITHUB, "It's a Secret to Everybody", b"Hello, World!", headers, now=0.0) == "genuine"


def test_the_example_of_standard_webhooks_is_believed() -> None:
    body = b'{"test": 2432232314}'
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,aaaa v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }

    assert verify(TIMED, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body, headers, now=1614265330.0) == "genuine"


@pytest.mark.parametrize(
    ("now", "verdict"), [(1300.0, "genuine"), (700.0, "genuine"), (1301.0, "stale"), (699.0, "stale")]
)
def test_a_delivery_that_was_recorded_is_of_no_use_later(now: float, verdict: str) -> None:
    headers = {"webhook-timestamp": "1000", "webhook-id": "1"}
    headers["webhook-signature"] = sign(TIMED, "secret", b"{}", headers)

    assert verify(TIMED, "secret", b"{}", headers, now=now) == verdict
    later = {**headers, "webhook-timestamp": str(int(now))}
    assert now == 1000.0 or verify(TIMED, "secret", b"{}", later, now=now) == "wrong"


def test_what_a_header_holds_is_no_place_to_fill() -> None:
    headers = {"webhook-timestamp": "{id}", "webhook-id": "{timestamp}"}
    expected = hmac.new(b"secret", b"{timestamp}.{id}.{}", hashlib.sha256).digest()

    form = SignatureForm(
        signed=TIMED.signed, timestamp_header=TIMED.timestamp_header, id_header=TIMED.id_header, encoding="hex"
    )

    assert sign(form, "secret", b"{}", headers) == expected.hex()


@pytest.mark.parametrize(
    "form",
    [
        SignatureForm(signed="{timestamp}"),
        SignatureForm(signed="{body}{body}"),
        SignatureForm(timestamp_header="X-Time"),
        SignatureForm(signed="{timestamp}{body}"),
        SignatureForm(signed="{id}{body}"),
    ],
)
def test_a_form_that_proves_nothing_is_refused(form: SignatureForm) -> None:
    assert form.problem()


@given(st.binary(min_size=1, max_size=100))
def test_a_secret_is_read_again_only_by_its_service_and_for_its_hook(master: bytes) -> None:
    keys = KeyRing(master.ljust(32, b"m"))
    hook = record(secret=b"")
    hidden = concealed(keys, hook.hook_id, "a secret")
    later = KeyRing(b"n" * 40, [master.ljust(32, b"m")])

    assert b"a secret" not in hidden
    for ring in (keys, later):
        assert revealed(ring, record(hook_id=hook.hook_id, secret=hidden)) == "a secret"
    for ring, hook_id in ((keys, uuid.uuid4()), (KeyRing(b"o" * 40), hook.hook_id)):
        with pytest.raises(SignatureInvalid):
            revealed(ring, record(hook_id=hook_id, secret=hidden))
    assert new_secret() != new_secret()


def record(**more: Any) -> HookRecord:
    fields = {"hook_id": uuid.uuid4(), "name": "h", "owner": "urn:o", "kind": "generic", "secret": b"", **more}
    return HookRecord(created_at=0.0, **fields)


def read(body: bytes) -> Any:
    return json.loads(body)


JSON = "application/json"


def test_a_delivery_of_github_is_an_event() -> None:
    hook = record(kind="github", subject="{{ event.data.ref }}")
    headers = {"x-github-event": "push", "x-github-delivery": "72d3162e"}

    event = event_of(hook, JSON, headers, b'{"ref": "refs/heads/main"}', read)

    assert event.document == {
        "specversion": "1.0",
        "id": "72d3162e",
        "type": "com.github.push",
        "source": f"/hooks/{hook.hook_id}",
        "subject": "refs/heads/main",
        "datacontenttype": JSON,
        "data": {"ref": "refs/heads/main"},
    }


def test_a_body_that_is_not_json_becomes_text_or_base64() -> None:
    text = event_of(record(), "text/plain", {}, "größer".encode(), read).document
    odd = event_of(record(), "application/octet-stream", {}, b"\xff\x00", read).document

    assert (text["data"], odd["data_base64"]) == ("größer", "/wA=")


def test_the_same_content_is_the_same_delivery() -> None:
    hook = record()
    ids = [event_of(hook, "text/plain", {}, body, read).id for body in (b"a", b"a", b"b")]

    assert ids[0] == ids[1] != ids[2]


def test_templates_see_data_and_headers_but_no_secrets() -> None:
    hook = record(type="org.{{ event.headers['x-kind'] }}", source="{{ event.data.where }}")
    event = event_of(hook, JSON, {"x-kind": "scan"}, b'{"where": "/lab"}', read)
    assert (event.type, event.source) == ("org.scan", "/lab")

    for name in ("authorization", "cookie", "x-hub-signature-256"):
        with pytest.raises(InputFailed):
            event_of(record(subject=f"{{{{ event.headers['{name}'] }}}}"), JSON, {name: "s"}, b"{}", read)


def test_what_a_delivery_does_not_say_is_not_invented() -> None:
    github = record(kind="github")
    with pytest.raises(EventRefused, match="X-GitHub-Event"):
        event_of(github, JSON, {"x-github-delivery": "1"}, b"{}", read)
    with pytest.raises(EventRefused, match="X-GitHub-Delivery"):
        event_of(github, JSON, {"x-github-event": "push"}, b"{}", read)
    with pytest.raises(EventRefused, match="Webhook-Id"):
        event_of(record(signature=TIMED), JSON, {}, b"{}", read)
    with pytest.raises(SchemaViolation):
        event_of(record(source="{{ event.data }}"), JSON, {}, b'{"a": 1}', read)
