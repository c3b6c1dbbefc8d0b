"""Action providers: what Globus Flows, or any HTTP client, runs as steps of workflows."""

from __future__ import annotations

from headrace.action_provider.providers.compute import ComputeProvider, ComputeV2Provider
from headrace.action_provider.providers.functions import FunctionProvider
from headrace.action_provider.providers.keeping import keep_actions
from headrace.action_provider.providers.provider import Provider
from headrace.action_provider.providers.publish import PublishProvider
from headrace.action_provider.providers.registry import Registry
from headrace.action_provider.providers.routes import ProvidersRoute
from headrace.action_provider.providers.wait import WaitProvider

__all__ = [
    "PROVIDERS",
    "ComputeProvider",
    "ComputeV2Provider",
    "FunctionProvider",
    "Provider",
    "ProvidersRoute",
    "PublishProvider",
    "Registry",
    "WaitProvider",
    "keep_actions",
]

PROVIDERS = Registry(
    (
        ComputeProvider(),
        ComputeV2Provider(),
        ComputeV2Provider("/actions/compute/fxap"),
        FunctionProvider(),
        PublishProvider(),
        WaitProvider(),
    )
)
"""Every provider of the service."""
