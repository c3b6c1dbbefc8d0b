"""The HTTP service: REST, sessions, workflow actions, events; and the dispatcher beside it."""

from headrace.action_provider.app import create_app
from headrace.action_provider.errors import ServiceUnusable
from headrace.action_provider.server import serve, serve_async
from headrace.action_provider.settings import ServiceSettings

__all__ = [
    # Running
    "ServiceSettings",
    "serve",
    "serve_async",
    "create_app",
    # Errors
    "ServiceUnusable",
]
