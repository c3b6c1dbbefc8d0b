"""One small GET, for `headrace up` to see whether its parts answer, without loading an HTTP client."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit


def get_json(url: str, *, token: str | None = None, timeout_s: float = 2.0) -> dict[str, Any] | None:
    """The object that answers with status 200, or None for whatever else happens."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        document = json.loads(response.read()) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return document if isinstance(document, dict) else None
