"""Replaced keys: what is believed, for how long, and what a crash in the middle leaves."""

from __future__ import annotations

import json
import stat
import uuid
from pathlib import Path

import pytest

from headrace.bus.errors import SignatureInvalid
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.keys import (
    KeyRing,
    bundle_key,
    bundle_keys,
    check_function_grant,
    check_mac,
    check_seal,
    function_grant,
    mac,
    seal,
)

ADA = "urn:headrace:user:ada"
ENDPOINT = uuid.uuid4()
OLD, NEW, STRANGER = (KeyRing(bytes([number]) * 32) for number in range(3))
BOTH = KeyRing(bytes([1]) * 32, [bytes([0]) * 32])


def test_what_was_signed_before_a_rotation_is_believed_and_what_is_signed_after_it_is_new() -> None:
    assert BOTH.pool_secret(ENDPOINT, "default") == NEW.pool_secret(ENDPOINT, "default")
    assert BOTH.result_keys(ENDPOINT, ADA) == (NEW.result_key(ENDPOINT, ADA), OLD.result_key(ENDPOINT, ADA))
    secrets = BOTH.pool_secrets(ENDPOINT, "default")
    for ring in (OLD, NEW):
        secret, key = ring.pool_secret(ENDPOINT, "default"), ring.result_key(ENDPOINT, ADA)
        check_seal(bundle_keys(secrets, ADA, 7), seal(bundle_key(secret, ADA, 7), b"body", "head"), b"body", "head")
        check_function_grant(secrets, function_grant(secret, ENDPOINT, ADA, 7), ENDPOINT, ADA, 7)
        check_mac(BOTH.result_keys(ENDPOINT, ADA), mac(key, "part"), "part")
        assert BOTH.check_ticket(ring.ticket("code", "x"), "code", "x")
    assert BOTH.ticket("x") == NEW.ticket("x") != OLD.ticket("x")


def test_nobody_elses_key_is_believed() -> None:
    secret, key = STRANGER.pool_secret(ENDPOINT, "default"), STRANGER.result_key(ENDPOINT, ADA)
    secrets = BOTH.pool_secrets(ENDPOINT, "default")
    with pytest.raises(SignatureInvalid):
        check_seal(bundle_keys(secrets, ADA, 7), seal(bundle_key(secret, ADA, 7), b"body"), b"body")
    with pytest.raises(SignatureInvalid):
        check_function_grant(secrets, function_grant(secret, ENDPOINT, ADA, 7), ENDPOINT, ADA, 7)
    with pytest.raises(SignatureInvalid):
        check_mac(BOTH.result_keys(ENDPOINT, ADA), mac(key, "part"), "part")
    with pytest.raises(SignatureInvalid):
        check_mac((), mac(key, "part"), "part")
    assert not BOTH.check_ticket(STRANGER.ticket("x"), "x")


def seeds(keys: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((keys / "operator.json").read_text())["seeds"]
    return found


def test_a_rotation_replaces_every_key_but_the_names_under_which_the_server_stores(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first = Operator.open(keys)
    before, ring = seeds(keys), first.key_ring()
    second = Operator.rotate(keys, now=1000.0)
    after = seeds(keys)
    assert {name for name in before if before[name] == after[name]} == {"core", "edge"}
    assert second.core.account == first.core.account
    assert [each.replaced_at for each in second.older] == [1000.0]
    service = ServiceKeys.load(keys)
    assert service.key_ring().pool_secrets(ENDPOINT, "p") == second.key_ring().pool_secrets(ENDPOINT, "p")
    assert second.key_ring().pool_secrets(ENDPOINT, "p")[1] == ring.pool_secret(ENDPOINT, "p")
    assert {stat.S_IMODE(each.stat().st_mode) for each in keys.iterdir()} == {0o600}

    Operator.rotate(keys, now=2000.0)
    third = Operator.forget(keys, replaced_before=1500.0)
    assert [each.replaced_at for each in third.older] == [2000.0]
    assert ring.pool_secret(ENDPOINT, "p") not in ServiceKeys.load(keys).key_ring().pool_secrets(ENDPOINT, "p")
    assert Operator.open(keys).older == third.older
    assert "secret" not in repr(third.older[0])


@pytest.mark.parametrize("lost", [("service.json",), ("master.key",), ("service.json", "master.key")])
def test_a_crash_in_the_middle_of_a_rotation_leaves_one_set_of_keys(tmp_path: Path, lost: tuple[str, ...]) -> None:
    keys = tmp_path / "keys"
    Operator.open(keys)
    rotated = Operator.rotate(keys, now=1000.0)
    for name in lost:
        (keys / name).unlink()
    Operator.open(keys)
    service = ServiceKeys.load(keys)
    assert service.key_ring().pool_secrets(ENDPOINT, "p") == rotated.key_ring().pool_secrets(ENDPOINT, "p")
    assert service.minter.sdk_user(ADA, ENDPOINT, "p", "s", 60.0).jwt
