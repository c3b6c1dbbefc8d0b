"""Who somebody is when nobody asks: the names under which an owner may do things that happen by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from headrace.bus.names import token
from headrace.bus.store.models import UserRecord
from headrace.bus.urns import USER_URN, canonical

BUILT_IN_USERS: Final = USER_URN
"""Principals whose records are in the table of users; those of other systems need none."""

FindUser = Callable[[str], Awaitable[UserRecord | None]]
"""The record of a user by its key, or None. Raises `BusUnavailable`."""


async def urns_of(find: FindUser, owner: str, linked: Iterable[str] = ()) -> frozenset[str] | None:
    """The URNs of an owner, of their other identities (`linked`) and of the groups they are in, as far as these are
    known here; None for one who is no user any more. Raises `BusUnavailable`."""
    urns: set[str] = set()
    for name in (owner, *linked):
        user = await find(token(canonical(name.removeprefix(BUILT_IN_USERS))))
        if user is None and not name.startswith(BUILT_IN_USERS):
            urns.add(name)
        elif user is None or user.removed_at is not None:
            return None
        else:
            urns |= {name, *user.groups}
    return frozenset(urns)
