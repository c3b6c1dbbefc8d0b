"""Addresses of sinks and headers for them, as owners write them: what is accepted can be sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

MOST_URL: Final = 2048
MOST_HEADERS: Final = 20
MOST_VALUE: Final = 4096

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_OWN: Final = frozenset(
    {"host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "user-agent"}
)
_OWN_BEGINNINGS: Final = ("content-", "ce-", "proxy-", "headrace-", "webhook-request-")


def checked_url(text: str) -> str:
    """The address. Raises `ValueError`, which says what is wrong with it."""
    if len(text) > MOST_URL:
        raise ValueError(f"an address has at most {MOST_URL} characters")
    if not text.isascii() or any(sign <= " " or sign in '\\"<>^`{|}\x7f' for sign in text):
        raise ValueError("an address is printable ASCII; write other characters as %XX, and names of hosts as xn--…")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("an address begins with https:// (or http://, where the administrator allows it)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address has no user and password in it; it is shown: put them into `headers` or `token`")
    if parts.fragment:
        raise ValueError("an address has no fragment (#…); it would not be sent")
    if not parts.hostname:
        raise ValueError("an address names a host")
    if parts.port == 0:  # raises ValueError for what is no port
        raise ValueError("0 is no port")
    return text


def checked_headers(headers: Mapping[str, str], taken: frozenset[str]) -> dict[str, str]:
    """Further headers; `taken` are names, in small letters, that something else sets. Raises `ValueError`."""
    if len(headers) > MOST_HEADERS:
        raise ValueError(f"at most {MOST_HEADERS} headers")
    seen: set[str] = set()
    for name, value in headers.items():
        small = name.lower()
        if not _NAME.fullmatch(name) or small in seen:
            raise ValueError(f"{name[:60]!r} is no name of a header, or is there twice")
        if small in _OWN or small in taken or small.startswith(_OWN_BEGINNINGS):
            raise ValueError(f"the header {name[:60]!r} is set by Headrace")
        # Not the value: it is a secret.
        if len(value) > MOST_VALUE or value != value.strip() or any(not " " <= sign <= "~" for sign in value):
            raise ValueError(
                f"the value of {name[:60]!r} is at most {MOST_VALUE} printable ASCII characters, with no space around"
            )
        seen.add(small)
    return dict(headers)


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: whom a secret was meant for."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
