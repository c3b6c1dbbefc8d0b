"""What an action provider is, and what all of them are given.

A provider is served at one path, or at every path of a form (`/actions/functions/{function_id:uuid}`). Routes, request
ids, who may do what, documents, deadlines and consents are the machinery's concern (`routes.py`, `lives.py`); what a
provider says and does is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.provider_access import Access
from headrace.action_provider.providers.requests import ActionRequest
from headrace.action_provider.state import Service
from headrace.bus.store.actions import ActionRecord, Start
from headrace.bus.store.records import Record

ActionRow = Record[ActionRecord]
"""A stored action; its value may hold fresher details than the store, which has the end only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAddress:
    """Where somebody calls a provider."""

    path: str
    """The whole path, in one spelling (`/actions/functions/6a0d7b0e-…`): what `ActionRecord.provider` holds."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The parameters of the path; a `:uuid` is one, in lower case."""
    query: Mapping[str, str] = field(default_factory=dict)
    """What the address binds behind its `?`, such as an endpoint. Not known for an action that is found by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a provider says of itself; the rest of its introspection is the same for all. Too long a text is cut."""

    title: str
    input_schema: Mapping[str, Any]
    subtitle: str = ""
    description: str = ""
    keywords: tuple[str, ...] = ()
    synchronous: bool = False
    """Whether every run ends before it is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why an action is ended before its own end: it is FAILED with these details."""

    code: str
    description: str
    display_status: str


CANCELLED: Final = Ending(code="Cancelled", description="The action was cancelled", display_status="Cancelled")
TOO_LATE: Final = Ending(
    code="DeadlineExceeded",
    description="The deadline passed before the action had ended",
    display_status="Deadline exceeded",
)


class Provider(Protocol):
    """One kind of action. Classes that name this one as their base have its defaults.

    `run`, `resume` and `status` may raise `ConsentRequired`: the action is then INACTIVE and says so, until somebody
    with more rights resumes it.
    """

    @property
    def path(self) -> str:
        """Where it is served: `/actions/compute/v3`, or a form with parameters `{name}` and `{name:uuid}`."""

    async def describe(self, service: Service, at: ProviderAddress) -> Description:
        """What it says of itself. Raises `NotFound` when there is no such provider at this address."""

    async def access(self, service: Service, at: ProviderAddress) -> Access:
        """Who may do what. Raises `NotFound` likewise."""
        return service.settings.access_of(self.path)

    async def run(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Start:
        """Start the action, or find the one that an equal request id has started; may wait a little for a quick end.

        Raises `ServiceError` when the request cannot become an action.
        """

    async def status(self, service: Service, action: ActionRow) -> ActionRow:
        """The action as it is now. An end is written by then, or follows from what is stored: it never changes."""

    async def resume(self, service: Service, caller: Caller, action: ActionRow) -> ActionRow:
        """Go on with an action that had begun when it became INACTIVE; `caller` is whoever started it.

        (One that asked for consent in `run` has not begun: it is simply run again.)
        """
        return await self.status(service, action)

    async def cancel(self, service: Service, action: ActionRow, why: Ending = CANCELLED) -> ActionRow:
        """End the action as soon as possible, for this reason; what has ended stays as it is."""

    async def release(self, service: Service, action: ActionRow) -> None:
        """Let go of what the provider itself keeps for an action that has ended and is about to be forgotten."""

    async def log(self, service: Service, action: ActionRow) -> list[dict[str, Any]]:
        """What happened, oldest first: `{"time", "code", "description", "details"?}`."""

    def news(self, action: ActionRecord) -> tuple[str, ...]:
        """The subjects on which the bus says that the action may have ended: it is then looked at soon, rather than
        now and then."""
        return ()
