"""Records that only two sides can read, over a connection that anybody may listen to, or get in between.

Each direction of each connection has a key of its own, and the number of a record is its nonce (XChaCha20-Poly1305), so
a record that was changed, left out, repeated, or taken from another connection does not open.
"""

from __future__ import annotations

from typing import Final

import nacl.bindings
import nacl.exceptions

from headrace.bus.errors import SignatureInvalid
from headrace.bus.keys import mac

SEAL_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES
"""By how much a sealed record is longer than its content."""

_NONCE_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES


class Sealer:
    """Seals the records of one direction. `context` is what this direction of this connection has for itself."""

    def __init__(self, secret: bytes, *context: str | bytes) -> None:
        self._key = mac(secret, "sealed records", *context)
        self._number = 0

    def seal(self, content: bytes) -> bytes:
        """The next record."""
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(content, None, self._nonce(), self._key)

    def _nonce(self) -> bytes:
        nonce = self._number.to_bytes(_NONCE_BYTES, "little")
        self._number += 1
        return nonce


class Opener(Sealer):
    """Opens what a `Sealer` with the same secret and context has sealed, in the same order."""

    def open(self, record: bytes) -> bytes:
        """The content of the next record. Raises `SignatureInvalid` when it is not the other side's next one."""
        try:
            return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(record, None, self._nonce(), self._key)
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise SignatureInvalid("a sealed record is not the next one of the other side") from error
