"""What an action provider is, and what all of them are given."""

from __future__ import annotations

from typing import Any, Protocol

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.providers.requests import ActionRequest
from headrace.action_provider.state import Service
from headrace.bus.store.actions import ActionRecord, Start
from headrace.bus.store.records import Record

ActionRow = Record[ActionRecord]
"""A stored action; its value may hold fresher details than the store, which has the end only."""


class Provider(Protocol):
    """One kind of action. Who may do what, request ids, documents and routes are not its concern."""

    @property
    def path(self) -> str:
        """Where it is served, for instance `/actions/compute/v3`."""

    def introspect(self) -> dict[str, Any]:
        """The provider description; satisfies `provider-description.json`."""

    async def run(self, service: Service, caller: Caller, request: ActionRequest) -> Start:
        """Start the action, or find the one that an equal request id has started; may wait a little for a quick end.

        Raises `ServiceError` when the request cannot become an action.
        """

    async def status(self, service: Service, action: ActionRow) -> ActionRow:
        """The action as it is now; when it has ended, the end is written first."""

    async def cancel(self, service: Service, action: ActionRow) -> ActionRow:
        """End the action as soon as possible; what has ended stays as it is."""

    async def release(self, service: Service, action: ActionRow) -> None:
        """Let go of what the provider itself keeps for an action that has ended and is about to be forgotten."""

    async def log(self, service: Service, action: ActionRow) -> list[dict[str, Any]]:
        """What happened, oldest first: `{"time", "code", "description", "details"?}`."""
