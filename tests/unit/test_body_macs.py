"""MACs of large bodies: two libraries make the same, and one of them may be missing."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus import body_macs
from headrace.bus.body_macs import LARGE_BYTES, NONCE_BYTES, body_mac, by_libsodium, by_openssl
from headrace.bus.errors import SignatureInvalid
from headrace.bus.keys import check_seal, seal

KEY = bytes(range(32))


@given(
    key=st.binary(min_size=32, max_size=32),
    nonce=st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
    body=st.binary(max_size=200),
)
def test_openssl_and_libsodium_make_the_same_mac(key: bytes, nonce: bytes, body: bytes) -> None:
    assert by_openssl(key, nonce, body) == by_libsodium(key, nonce, body)
    assert by_openssl(key, nonce, memoryview(body)) == by_libsodium(key, nonce, memoryview(body))


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 17])
def test_a_large_body_has_the_mac_that_older_releases_make(size: int) -> None:
    nonce, body = os.urandom(NONCE_BYTES), os.urandom(size)
    assert body_mac(KEY, nonce, body) == by_libsodium(KEY, nonce, body)


def test_a_large_body_is_believed_only_as_it_was_signed() -> None:
    body = bytearray(os.urandom(LARGE_BYTES))
    signature = seal(KEY, body, "head", "subject")
    check_seal(KEY, signature, memoryview(body), "head", "subject")
    with pytest.raises(SignatureInvalid):
        check_seal(KEY, signature, body, "head", "another subject")
    with pytest.raises(SignatureInvalid):
        check_seal(KEY, signature[:-1], body, "head", "subject")
    body[-1] ^= 1
    with pytest.raises(SignatureInvalid):
        check_seal(KEY, signature, body, "head", "subject")


def test_without_openssl_large_bodies_are_signed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(LARGE_BYTES)
    signature = seal(KEY, body)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    body_macs._for_large.cache_clear()
    try:
        assert body_macs._for_large() is by_libsodium
        check_seal(KEY, signature, body)
    finally:
        body_macs._for_large.cache_clear()
