"""Keys and credentials: what is signed, what is allowed, and how files that hold secrets are treated."""

from __future__ import annotations

import base64
import json
import stat
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import nkeys
import pytest

from headrace.bus.errors import KeysUnusable
from headrace.bus.installation.credentials import Credentials, issued_at
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.service_keys import ServiceKeys

ENDPOINT = UUID("11111111-2222-3333-4444-555555555555")
ADA = "urn:headrace:user:ada"
ADA_TOKEN = "urn=3Aheadrace=3Auser=3Aada"


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator.open(tmp_path / "keys")


def claims(jwt: str) -> dict[str, Any]:
    body = jwt.split(".")[1]
    document: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return document


def test_an_sdk_session_may_do_these_things_and_nothing_else(operator: Operator) -> None:
    credentials = operator.minter.sdk_user(ADA, ENDPOINT, "default", "s1", 600)

    allowed = claims(credentials.jwt)["nats"]
    assert allowed["pub"] == {
        "allow": [
            f"task.{ENDPOINT.hex}.default.{ADA_TOKEN}.>",
            f"$JS.API.DIRECT.GET.RESULTS.result.{ENDPOINT.hex}.{ADA_TOKEN}.>",
        ]
    }
    assert allowed["sub"] == {
        "allow": [
            "_INBOX_s1.>",
            f"stored.result.{ENDPOINT.hex}.{ADA_TOKEN}.>",
            f"stored.progress.{ENDPOINT.hex}.{ADA_TOKEN}.>",
        ]
    }
    assert credentials.inbox_prefix == "_INBOX_s1"


def test_a_pool_may_do_these_things_and_nothing_else(operator: Operator) -> None:
    credentials = operator.minter.pool_user(ENDPOINT, "gpu.big", "s2", 600)

    allowed = claims(credentials.jwt)["nats"]
    assert allowed["pub"] == {
        "allow": [
            f"result.{ENDPOINT.hex}.>",
            f"progress.{ENDPOINT.hex}.>",
            f"log.{ENDPOINT.hex}.>",
            "$JS.API.CONSUMER.MSG.NEXT.TASKS.*",
            "$JS.ACK.TASKS.*.>",
            f"$JS.API.DIRECT.GET.RESULTS.result.{ENDPOINT.hex}.>",
            f"$JS.API.DIRECT.GET.CONTROL.control.{ENDPOINT.hex}.gpu=2Ebig.>",
            f"peers.{ENDPOINT.hex}.gpu=2Ebig.>",
        ]
    }
    assert allowed["sub"] == {
        "allow": ["_INBOX_s2.>", f"control.{ENDPOINT.hex}.gpu=2Ebig.>", f"peers.{ENDPOINT.hex}.gpu=2Ebig.>"]
    }


def test_a_session_id_cannot_widen_an_inbox(operator: Operator) -> None:
    credentials = operator.minter.sdk_user(ADA, ENDPOINT, "default", "*.>", 600)

    assert claims(credentials.jwt)["nats"]["sub"]["allow"][0] == "_INBOX_=2A=2E=3E.>"


def test_an_edge_credential_expires_and_is_signed_for_the_edge_account(operator: Operator) -> None:
    before = int(time.time())
    credentials = operator.minter.sdk_user(ADA, ENDPOINT, "default", "s1", 600)

    stated = claims(credentials.jwt)
    assert before <= stated["exp"] - 600 <= time.time() + 1
    assert stated["nats"]["issuer_account"] == operator.edge.account
    assert stated["sub"] == nkeys.from_seed(bytearray(credentials.seed.encode())).public_key.decode()


def test_a_credential_tells_when_it_was_issued(operator: Operator) -> None:
    before = int(time.time())
    credentials = operator.minter.sdk_user(ADA, ENDPOINT, "default", "s1", 600)

    assert issued_at(credentials.jwt) == claims(credentials.jwt)["iat"]
    assert before <= issued_at(credentials.jwt) <= time.time()


@pytest.mark.parametrize("text", ["", "a.b.c", "a.e30.c", "a.bnVsbA.c"])
def test_what_is_no_credential_is_refused(text: str) -> None:
    with pytest.raises(KeysUnusable, match="not a NATS JWT"):
        issued_at(text)


def test_the_permissions_of_nothing_are_not_those_of_everything(operator: Operator) -> None:
    nothing = operator.edge.user("nobody", publish=[], subscribe=[], ttl_s=60)

    stated = claims(nothing.jwt)["nats"]
    assert (stated["pub"], stated["sub"]) == ({"deny": [">"]}, {"deny": [">"]})


def test_the_edge_account_has_no_jetstream_and_imports_what_core_exports(operator: Operator) -> None:
    accounts = operator.accounts()

    core, edge = claims(accounts.jwts[operator.core.account]), claims(accounts.jwts[operator.edge.account])
    exported = {(each["type"], each["subject"]) for each in core["nats"]["exports"]}
    imported = {(each["type"], each["subject"]) for each in edge["nats"]["imports"]}
    assert exported == imported
    assert exported == {
        ("service", "task.>"),
        ("service", "result.>"),
        ("service", "progress.>"),
        ("service", "log.>"),
        ("service", "publish.*.*"),
        ("service", "$JS.ACK.>"),
        ("service", "$JS.API.CONSUMER.MSG.NEXT.*.*"),
        ("service", "$JS.API.DIRECT.GET.RESULTS.>"),
        ("service", "$JS.API.DIRECT.GET.CONTROL.>"),
        ("stream", "stored.>"),
        ("stream", "control.>"),
    }
    assert "disk_storage" not in edge["nats"]["limits"]
    assert core["nats"]["limits"]["disk_storage"] == -1


def test_a_credential_does_not_print_its_seed() -> None:
    credentials = Credentials(jwt="header.body.signature", seed="SUSECRET")

    assert "SUSECRET" not in repr(credentials)


def test_keys_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    first = Operator.open(tmp_path / "keys")
    again = Operator.open(tmp_path / "keys")

    assert again.core.account == first.core.account
    assert again.key_ring().pool_secret(ENDPOINT, "default") == first.key_ring().pool_secret(ENDPOINT, "default")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    files = list((tmp_path / "keys").iterdir())
    assert sorted(file.name for file in files) == ["master.key", "operator.json", "service.json"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_crash_between_the_files_mends_itself(tmp_path: Path) -> None:
    first = Operator.open(tmp_path / "keys")
    master = (tmp_path / "keys" / "master.key").read_bytes()
    (tmp_path / "keys" / "master.key").unlink()
    (tmp_path / "keys" / "service.json").unlink()

    Operator.open(tmp_path / "keys")

    assert (tmp_path / "keys" / "master.key").read_bytes() == master
    service = ServiceKeys.load(tmp_path / "keys")
    assert claims(service.core.jwt)["nats"]["issuer_account"] == first.core.account


def test_a_service_elsewhere_needs_two_files(tmp_path: Path) -> None:
    operator = Operator.open(tmp_path / "keys")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    for name in ("service.json", "master.key"):
        (elsewhere / name).touch(mode=0o600)
        (elsewhere / name).write_bytes((tmp_path / "keys" / name).read_bytes())

    service = ServiceKeys.load(elsewhere)

    assert service.key_ring().ticket("x") == operator.key_ring().ticket("x")
    assert claims(service.minter.pool_user(ENDPOINT, "default", "s", 60).jwt)["iss"] == operator.edge.key.public
    with pytest.raises(KeysUnusable, match="the key of the CORE account is not here"):
        service.minter.core_user("another", 60)


def test_new_keys_are_not_made_beside_those_of_a_service(tmp_path: Path) -> None:
    Operator.open(tmp_path / "keys")
    (tmp_path / "keys" / "operator.json").unlink()

    with pytest.raises(KeysUnusable, match=r"Restore operator\.json from your backup"):
        Operator.open(tmp_path / "keys")


def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    Operator.open(tmp_path / "keys")
    (tmp_path / "keys" / "operator.json").chmod(0o644)

    with pytest.raises(KeysUnusable, match=r"open to other users \(mode 0644\); run: chmod 600 .*operator\.json"):
        Operator.open(tmp_path / "keys")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("operator.json", b"{", "is damaged"),
        ("operator.json", b"[]", "is not complete"),
        ("operator.json", b'{"seeds": {}}', "is not complete"),
        ("service.json", b'{"core": 1}', "is not complete"),
        ("master.key", b"short", "is damaged: 5 bytes, not 32"),
    ],
)
def test_a_damaged_key_file_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    Operator.open(tmp_path / "keys")
    (tmp_path / "keys" / name).write_bytes(content)

    with pytest.raises(KeysUnusable, match=f"{name} {problem}"):
        Operator.load(tmp_path / "keys") if name == "operator.json" else ServiceKeys.load(tmp_path / "keys")


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysUnusable, match=r"service\.json is missing"):
        ServiceKeys.load(tmp_path)


def test_keys_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(KeysUnusable, match="cannot be made: Not a directory"):
        Operator.open(tmp_path / "file" / "keys")
