"""For clients of a service that has no TLS."""

from __future__ import annotations

import ssl
from typing import Final

NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""`verify` of an httpx client: it trusts nobody. Left to itself, each client loads all authorities, for 17 ms."""
