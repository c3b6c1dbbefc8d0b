"""The action provider that each registered function has: where it is, and which members of a body are its own."""

from __future__ import annotations

from typing import Final
from uuid import UUID

FUNCTIONS_PATH: Final = "/actions/functions/{function_id:uuid}"

RESERVED: Final = "$"
"""Members of a body that begin with it are the provider's, not the function's: no parameter can have such a name."""


def provider_path(function_id: UUID) -> str:
    """Where the provider of a function is."""
    return f"/actions/functions/{function_id}"
