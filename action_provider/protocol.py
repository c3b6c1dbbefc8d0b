"""The version of the protocol between this service, SDKs and endpoints."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

from headrace.action_provider.errors import ProtocolMismatch
from headrace.bus.tasks.bundles import WIRE_VERSION

PROTOCOL = WIRE_VERSION


@functools.cache
def service_version() -> str:
    """The installed release of Headrace."""
    return metadata.version("headrace")


def check_protocol(body: Any) -> None:
    """Raises `ProtocolMismatch`, naming both versions and what to install, when the body's `protocol` is another one.

    It comes before the schema: a newer client may send fields that this release does not know.
    """
    theirs = body.get("protocol") if isinstance(body, dict) else None
    if not isinstance(theirs, int) or isinstance(theirs, bool) or theirs == PROTOCOL:
        return
    version = body.get("sdk_version") or body.get("headrace_version") or "of unknown version"
    relation = "newer" if theirs > PROTOCOL else "older"
    raise ProtocolMismatch(
        f"the client (headrace {str(version)[:40]}, protocol {theirs}) is {relation} than this service"
        f" (headrace {service_version()}, protocol {PROTOCOL}); run `pip install headrace=={service_version()}`"
        " on the client's side, or upgrade the service"
    )
