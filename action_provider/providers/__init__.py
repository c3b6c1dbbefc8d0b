"""Action providers: what Globus Flows, or any HTTP client, runs as steps of workflows."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import Route

from headrace.action_provider.providers.compute import ComputeProvider
from headrace.action_provider.providers.provider import Provider
from headrace.action_provider.providers.routes import routes_of

__all__ = [
    "PROVIDERS",
    "ComputeProvider",
    "Provider",
    "routes",
]

PROVIDERS: tuple[Provider, ...] = (ComputeProvider(),)
"""Every provider of the service."""


def routes() -> Sequence[Route]:
    """The routes of all providers."""
    return routes_of(PROVIDERS)
