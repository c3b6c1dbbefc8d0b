"""Where a subscription's deliveries go: an endpoint, one that the event names, and the next ones when it is away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from headrace.bus.errors import EndpointNotAllowed, FilterInvalid
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.templates import InputTemplate, compile_input

NO_ENDPOINT: Final = UUID(int=0)
"""Stands for the endpoint of a subscription whose events choose theirs."""


class EndpointChoice(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint for each event: the template gives a name, and the names stand for endpoints. No other is allowed."""

    template: str
    allowed: Mapping[str, UUID]


class OfflinePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long a delivery waits for an endpoint that is away (None: for ever), and where it goes then, one by one."""

    hold_s: float | None = None
    next_endpoints: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """The endpoints of one subscription."""

    endpoint: UUID
    choice: EndpointChoice | None
    next_endpoints: tuple[UUID, ...]
    _template: InputTemplate | None

    def first(self, event: CloudEvent) -> UUID | None:
        """The endpoint that the event names; None where it has no say.

        Raises `EndpointNotAllowed`, and `InputFailed` when the template cannot be rendered.
        """
        if self.choice is None or self._template is None:
            return None
        name = self._template.render(event).args[0]
        found = self.choice.allowed.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(sorted(self.choice.allowed))
            raise EndpointNotAllowed(f"the event names the endpoint {str(name)[:200]!r}; the allowed ones are {known}")
        return found

    def after(self, place: UUID) -> UUID | None:
        """Where a delivery goes on that has waited long enough for this endpoint; None is nowhere."""
        order = self.next_endpoints
        if place in order:
            order = order[order.index(place) + 1 :]
        return next((each for each in order if each != place), None)

    def all(self) -> frozenset[UUID]:
        """Everywhere that deliveries go."""
        named = (self.endpoint,) if self.choice is None else self.choice.allowed.values()
        return frozenset((*named, *self.next_endpoints))


def compile_places(endpoint: UUID, choice: EndpointChoice | None, next_endpoints: Sequence[UUID] = ()) -> Places:
    """Compile the template. Raises `FilterInvalid` with a pointer into the choice."""
    return Places(endpoint, choice, tuple(next_endpoints), None if choice is None else _template(choice.template))


def _template(text: str) -> InputTemplate:
    try:
        return compile_input({"args": [text]})
    except FilterInvalid as error:
        raise FilterInvalid(str(error), pointer="/template") from error
