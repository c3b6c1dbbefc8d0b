"""Which buses a caller may publish to, read and change. Strangers to a bus do not learn that it is there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import Forbidden, MalformedRequest, NotFound, ServiceError
from headrace.action_provider.state import Service
from headrace.bus.eventing.buses import BusRecord, everybodys
from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.store.models import PUBLIC

Right = Literal["publish", "subscribe"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")  # schemas/bus-name.json


async def bus_of(service: Service, name: str) -> BusRecord:
    """A bus, whoever asks. Raises `NotFound`."""
    if name == DEFAULT_BUS:
        return everybodys()
    # What no bus can be called is no key of a record either.
    found = await service.tables.buses.recent(name) if _NAME.fullmatch(name) else None
    if found is None or not found.value.is_there:
        raise not_found(name)
    return found.value


async def check_right(service: Service, caller: Caller, name: str, right: Right, *, lasting: bool = False) -> str:
    """The name of a bus to which the caller may publish or subscribe. `lasting` is for what goes on when the caller is
    gone, where groups of other systems cannot be asked for. Raises `NotFound` and `Forbidden`."""
    if name == DEFAULT_BUS:
        return name
    record = await bus_of(service, name)
    allowed = {"publish": record.publishers, "subscribe": record.subscribers}
    if await _may(caller, record, allowed[right]):
        if lasting and not _known(caller, record, right):
            raise Forbidden(
                f"you may {right} at the bus {name!r} as a member of another system's group, which nobody can be asked"
                " for when you are not there; have the bus's owner name you, or a group of this service"
            )
        return name
    if await sees(caller, record):
        raise Forbidden(f"you may not {right} at the bus {name!r}; its owner, {record.owner}, says who may")
    raise not_found(name)


async def check_bus(service: Service, caller: Caller, name: str, right: Right, *, lasting: bool = False) -> str:
    """As `check_right`, for a name in the body of an action. Raises `MalformedRequest`."""
    try:
        return await check_right(service, caller, str(name), right, lasting=lasting)
    except ServiceError as error:
        raise MalformedRequest(f"Field '$.bus': {error.detail}") from None


async def own_bus(service: Service, caller: Caller, name: str) -> BusRecord:
    """A bus that the caller may change: its owner, or an administrator. Raises `NotFound` and `Forbidden`."""
    if name == DEFAULT_BUS:
        raise Forbidden(f"the bus {DEFAULT_BUS!r} is everybody's, and cannot be changed")
    record = await bus_of(service, name)
    if caller.admin or caller.is_(record.owner):
        return record
    if await sees(caller, record):
        raise Forbidden(f"the bus {name!r} belongs to {record.owner}; only its owner may do this")
    raise not_found(name)


async def sees(caller: Caller, record: BusRecord) -> bool:
    """Whether the caller may know of a bus."""
    return caller.admin or await _may(caller, record, (*record.publishers, *record.subscribers))


async def may(caller: Caller, record: BusRecord, right: Right) -> bool:
    """Whether the caller has a right at a bus."""
    return await _may(caller, record, record.publishers if right == "publish" else record.subscribers)


def not_found(name: str) -> NotFound:
    """What strangers to a bus are told, and those who ask for one that is not there."""
    return NotFound(f"there is no bus {name[:80]!r}, or it is not yours to use")


async def _may(caller: Caller, record: BusRecord, allowed: Iterable[str]) -> bool:
    if PUBLIC in allowed or caller.is_(record.owner) or any(map(caller.is_, allowed)):
        # An endpoint, by its token, is its owner, but in none of the owner's groups.
        return True
    return bool(await caller.among(allowed))


def _known(caller: Caller, record: BusRecord, right: Right) -> bool:
    urns = {caller.principal, *caller.linked, *caller.urns}
    return record.lets_publish(urns) if right == "publish" else record.lets_subscribe(urns)
