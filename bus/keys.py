"""Keys and MACs: who may ask a pool to run something, and whose results are believed.

Everything derives from one master secret that only the service holds, by keyed BLAKE2b (RFC 7693):

    pool secret      of (endpoint, pool)                known to the service and that pool
    bundle key       of (pool secret, principal, expiry)   granted to a principal's session; signs bundles
    function grant   of (pool secret, function, principal, expiry)  says that the principal may run the function there
    result key       of (endpoint, principal)           travels inside bundles; signs result parts

A bundle's MAC covers its whole subject, hence the group and the bundle id, so a key granted to one principal cannot
sign for another, nor for another pool. The pool compares the expiry with the time at which the bundle was *stored*
(the server's clock), so a task may wait for days and a client's clock does not matter.

Bodies of bundles and parts may have megabytes and are signed and checked four times on their way, so their MAC is
Poly1305, as XChaCha20-Poly1305 makes it of additional data (`headrace.bus.body_macs`): a third of the time of BLAKE2b
at most. Its one-time key comes from a random nonce and from a key that BLAKE2b derives from what must not be mixed up
(head and subject).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
from collections.abc import Sequence
from uuid import UUID

import nacl.bindings
import nacl.exceptions

from headrace.bus.body_macs import NONCE_BYTES, TAG_BYTES, Body, body_mac
from headrace.bus.errors import SignatureInvalid

KEY_BYTES = 32
MAC_BYTES = 32

Keys = bytes | tuple[bytes, ...]
"""The key that is believed, or several of which each one is: the one in use first, then those before it."""

SEAL_BYTES = NONCE_BYTES + TAG_BYTES

_DOES_NOT_FIT = "the signature does not fit: the message was not made by the one it claims to come from"


def _derive(key: bytes, *parts: str | bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(key=key, digest_size=KEY_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # The length goes first: ("ab", "c") and ("a", "bc") must not meet.
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


@functools.lru_cache(maxsize=2048)
def _derived(key: bytes, *parts: str | bytes) -> bytes:
    """The same of what is asked for again and again: keys, of which a pool or a principal has a few in each second."""
    return _derive(key, *parts)


def mac(key: bytes, *parts: str | bytes | memoryview) -> bytes:
    """The MAC of these parts under a key."""
    return _derive(key, *parts)


def check_mac(key: Keys, signature: bytes, *parts: str | bytes | memoryview) -> None:
    """Raises `SignatureInvalid` unless `signature` is the MAC of the parts under one of the keys, compared in constant
    time."""
    if not any(hmac.compare_digest(signature, _derive(each, *parts)) for each in _each(key)):
        raise SignatureInvalid(_DOES_NOT_FIT)


def seal(key: bytes, body: Body, *context: str | bytes) -> bytes:
    """The MAC (with its nonce) of a body that may be large, valid only together with this context."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + body_mac(_derive(key, "seal", *context), nonce, body)


def check_seal(key: Keys, signature: bytes, body: Body, *context: str | bytes) -> None:
    """Raises `SignatureInvalid` unless `seal` made the signature of this body and context under one of the keys
    (compared in constant time)."""
    nonce, tag = signature[:NONCE_BYTES], signature[NONCE_BYTES:]
    made = (body_mac(_derive(each, "seal", *context), nonce, body) for each in _each(key))
    if len(signature) != SEAL_BYTES or not any(hmac.compare_digest(tag, each) for each in made):
        raise SignatureInvalid(_DOES_NOT_FIT)


def bundle_key(pool_secret: bytes, principal: str, expires_unix_s: int) -> bytes:
    """The key under which a principal's session signs bundles for a pool until the expiry."""
    return _derived(pool_secret, "bundle", principal, str(expires_unix_s))


def function_grant(pool_secret: bytes, function: UUID, principal: str, expires_unix_s: int) -> bytes:
    """The proof, for a pool and for the service, that the principal may run the function there."""
    return _derived(pool_secret, "function", function.bytes, principal, str(expires_unix_s))


def bundle_keys(pool_secrets: Keys, principal: str, expires_unix_s: int) -> Keys:
    """The keys under which a bundle of this principal, with this expiry, may be signed."""
    return tuple(bundle_key(secret, principal, expires_unix_s) for secret in _each(pool_secrets))


def check_function_grant(pool_secret: Keys, grant: bytes, function: UUID, principal: str, expires_unix_s: int) -> None:
    """Raises `SignatureInvalid` unless the grant is the service's."""
    made = (function_grant(secret, function, principal, expires_unix_s) for secret in _each(pool_secret))
    if not any(hmac.compare_digest(grant, each) for each in made):
        raise SignatureInvalid(f"no valid grant to run function {function} here")


def _each(keys: Keys) -> tuple[bytes, ...]:
    return (keys,) if isinstance(keys, bytes) else keys


class KeyRing:
    """The service's master secret and what derives from it. Raises `ValueError` when a secret is too short.

    After a rotation the secrets `before` it are still believed, so that what was signed under them stays good; nothing
    new is signed with them.
    """

    def __init__(self, master: bytes, before: Sequence[bytes] = ()) -> None:
        for secret in (master, *before):
            if len(secret) < KEY_BYTES:
                raise ValueError(f"the master secret must have at least {KEY_BYTES} bytes, not {len(secret)}")
        self._masters = tuple(hashlib.blake2b(secret, digest_size=KEY_BYTES).digest() for secret in (master, *before))

    def __repr__(self) -> str:
        return "KeyRing(…)"

    def pool_secret(self, endpoint: UUID, pool: str) -> bytes:
        """The secret shared with one pool: what is signed for it now."""
        return self.pool_secrets(endpoint, pool)[0]

    def pool_secrets(self, endpoint: UUID, pool: str) -> tuple[bytes, ...]:
        """The same, then those that are still believed."""
        return tuple(_derived(master, "pool", endpoint.bytes, pool) for master in self._masters)

    def result_key(self, endpoint: UUID, principal: str) -> bytes:
        """The key that signs results of this principal's tasks at this endpoint."""
        return self.result_keys(endpoint, principal)[0]

    def result_keys(self, endpoint: UUID, principal: str) -> tuple[bytes, ...]:
        """The same, then those that are still believed."""
        return tuple(_derived(master, "result", endpoint.bytes, principal) for master in self._masters)

    def conceal(self, secret: bytes, *context: str | bytes) -> bytes:
        """A secret as it may lie in a store: only this service can read it, and only together with this context."""
        nonce = os.urandom(NONCE_BYTES)
        key = _derive(self._masters[0], "concealed", *context)
        return nonce + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(secret, None, nonce, key)

    def reveal(self, concealed: bytes, *context: str | bytes) -> bytes:
        """What `conceal` concealed, under any secret that is still believed. Raises `SignatureInvalid`."""
        nonce, sealed = concealed[:NONCE_BYTES], concealed[NONCE_BYTES:]
        for master in self._masters:
            key = _derive(master, "concealed", *context)
            try:
                return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, None, nonce, key)
            except (nacl.exceptions.CryptoError, ValueError):
                continue
        raise SignatureInvalid("this was not concealed under a secret that is still believed")

    def ticket(self, *claims: str) -> str:
        """A MAC over claims, in hex, for the service's own short-lived tokens."""
        return _derive(self._masters[0], "ticket", *claims).hex()

    def check_ticket(self, ticket: str, *claims: str) -> bool:
        """Whether `ticket` was made by `ticket` for exactly these claims."""
        made = (_derive(master, "ticket", *claims).hex() for master in self._masters)
        return any(hmac.compare_digest(ticket.encode(), each.encode()) for each in made)
