"""Signatures of webhooks: HMAC-SHA256 over the raw body, as GitHub and many others send it in a header.

What is compared is compared in constant time. A time stamp counts only where it is signed as well; then what is older,
or newer, than the tolerance is not believed, so a delivery that somebody recorded is of no use later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

Verdict = Literal["genuine", "missing", "wrong", "stale"]

_STANDARD_SECRET: Final = "whsec_"  # noqa: S105  # how secrets of Standard Webhooks begin
_MOST_SIGNATURES: Final = 10
_MOST_CHARACTERS: Final = 4096
_PLACE: Final = re.compile(r"\{timestamp\}|\{id\}")


class SignatureForm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a sender puts its signature, and what it signs."""

    header: str = "X-Hub-Signature-256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    """What stands before the signature, such as `sha256=`. Of several signatures, with spaces between, one must fit."""
    signed: str = "{body}"
    """What is signed: text with `{body}`, `{timestamp}` and `{id}`."""
    timestamp_header: str = ""
    """Where the time is (unix seconds); empty when the sender gives none."""
    tolerance_s: float = 300.0
    id_header: str = ""
    """Where the delivery's own id is; empty when it has none."""

    def problem(self) -> str | None:
        """What is wrong with the form, or None."""
        if self.signed.count("{body}") != 1:
            return "signed: what is signed must have `{body}` in it, once"
        if self.timestamp_header and "{timestamp}" not in self.signed:
            return "signed: a time that is not signed proves nothing; put `{timestamp}` in, as in `{timestamp}.{body}`"
        if "{timestamp}" in self.signed and not self.timestamp_header:
            return "signed: `{timestamp}` needs `timestamp_header`"
        if "{id}" in self.signed and not self.id_header:
            return "signed: `{id}` needs `id_header`"
        return None


GITHUB: Final = SignatureForm(prefix="sha256=")
"""How GitHub signs; many others do the same."""


def sign(form: SignatureForm, secret: str, body: bytes, headers: Mapping[str, str] | None = None) -> str:
    """The value of the signature's header for a body, and for the headers that are signed with it."""
    digest = hmac.new(_key(form, secret), signed_content(form, body, headers or {}), hashlib.sha256).digest()
    return form.prefix + (digest.hex() if form.encoding == "hex" else base64.b64encode(digest).decode())


def verify(form: SignatureForm, secret: str, body: bytes, headers: Mapping[str, str], *, now: float) -> Verdict:
    """Whether whoever sent this knows the secret. `headers` finds names in any case, or in small letters."""
    # It is computed whatever was sent, so the answer takes as long.
    expected = sign(form, secret, body, headers).encode()
    given = _header(headers, form.header)
    if not given:
        return "missing"
    if not any(_same(form, expected, each) for each in given[:_MOST_CHARACTERS].split()[:_MOST_SIGNATURES]):
        return "wrong"
    return "genuine" if not form.timestamp_header or _is_fresh(form, headers, now) else "stale"


def signed_content(form: SignatureForm, body: bytes, headers: Mapping[str, str]) -> bytes:
    """What the signature covers."""
    before, _, after = form.signed.partition("{body}")
    return _filled(form, before, headers) + body + _filled(form, after, headers)


def _filled(form: SignatureForm, text: str, headers: Mapping[str, str]) -> bytes:
    # In one pass: what a header holds is never taken for a place to fill.
    places = {"{timestamp}": form.timestamp_header, "{id}": form.id_header}
    return _PLACE.sub(lambda found: _header(headers, places[found[0]]), text).encode()


def _same(form: SignatureForm, expected: bytes, given: str) -> bool:
    if form.encoding == "hex" and given.startswith(form.prefix):
        given = form.prefix + given[len(form.prefix) :].lower()
    return hmac.compare_digest(expected, given.encode("utf-8", "replace"))


def _is_fresh(form: SignatureForm, headers: Mapping[str, str], now: float) -> bool:
    text = _header(headers, form.timestamp_header)
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        return False
    return abs(now - int(text)) <= form.tolerance_s


def _header(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name.lower(), "").strip() if name else ""


def _key(form: SignatureForm, secret: str) -> bytes:
    if form.encoding == "base64" and secret.startswith(_STANDARD_SECRET):
        try:
            return base64.b64decode(secret.removeprefix(_STANDARD_SECRET), validate=True)
        except (binascii.Error, ValueError):
            pass  # Then it only begins like one.
    return secret.encode()
