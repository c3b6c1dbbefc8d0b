"""The MAC of a body that may have megabytes: what XChaCha20-Poly1305 makes of additional data without any content.

    small bodies   by libsodium, which is there anyhow
    large ones     by OpenSSL, whose Poly1305 takes a third of the time: 0.08 ms for 1 MB instead of 0.24

Both make the same bytes. OpenSSL does not know the X of the name: what that stands for, a key for each nonce, is made
here.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from typing import Final

import nacl.bindings

NONCE_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
TAG_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES

LARGE_BYTES: Final = 256 * 1024
"""From here on OpenSSL is used. Loading it takes a process 6 ms and 8 MB, and each key 7 µs."""

Body = bytes | bytearray | memoryview
_Mac = Callable[[bytes, bytes, Body], bytes]

_CONSTANT = b"expand 32-byte k"


def body_mac(key: bytes, nonce: bytes, body: Body) -> bytes:
    """The MAC of the body under this key, of 32 bytes, and this nonce."""
    make = by_libsodium if len(body) < LARGE_BYTES else _for_large()
    return make(key, nonce, body)


def by_libsodium(key: bytes, nonce: bytes, body: Body) -> bytes:
    """The same, made by libsodium."""
    return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(b"", bytes(body), nonce, key)


def by_openssl(key: bytes, nonce: bytes, body: Body) -> bytes:
    """The same, made by OpenSSL. Raises `ImportError` where it cannot be loaded, and `ValueError` or
    `cryptography.exceptions.UnsupportedAlgorithm` where it must not do this."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    # As the draft of XChaCha20 has it: the first 16 bytes of the nonce make a key, the others are that one's nonce.
    return ChaCha20Poly1305(_key_of_nonce(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], b"", body)


def _key_of_nonce(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20: a block of ChaCha20 before its input is added to it, of which the first and the last row count."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    block = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    added = struct.unpack("<8I", _CONSTANT + nonce)
    words = struct.unpack("<4I32x4I", block)
    return struct.pack("<8I", *((word - each) & 0xFFFFFFFF for word, each in zip(words, added, strict=True)))


@functools.cache
def _for_large() -> _Mac:
    """OpenSSL where it makes the same as libsodium: one in FIPS mode, say, does not do this at all."""
    key, nonce = os.urandom(32), os.urandom(NONCE_BYTES)
    try:
        works = by_openssl(key, nonce, b"body") == by_libsodium(key, nonce, b"body")
    except Exception:  # whatever is wrong with it: it is not needed
        works = False
    return by_openssl if works else by_libsodium
