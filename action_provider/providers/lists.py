"""Lists of a provider's actions, page by page: never more is read than a page needs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlencode

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import InvalidRequest, NotFound
from headrace.action_provider.providers import lives
from headrace.action_provider.providers.provider import ActionRow, Provider
from headrace.action_provider.state import Service
from headrace.bus.store.action_lists import ROLES, ActionList, ListState, Role
from headrace.bus.store.actions import ActionRecord, listed_as
from headrace.bus.urns import canonical
from headrace.schemas import Violation

_Name = TypeVar("_Name", bound=str)

DEFAULT_LIMIT = 100
MOST_PER_PAGE = 500

_STATES = ("ACTIVE", "INACTIVE", "SUCCEEDED", "FAILED")
_LISTS: Mapping[str, ListState] = {"ACTIVE": "open", "INACTIVE": "open", "SUCCEEDED": "succeeded", "FAILED": "failed"}
_LIST_STATES: tuple[ListState, ...] = ("open", "succeeded", "failed")
_MOST_READS = 50
_STATUSES_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a list is asked for."""

    states: frozenset[str]
    roles: tuple[Role, ...]
    limit: int = DEFAULT_LIMIT
    marker: str = ""

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Wanted:
        """From `?status=` (by default `active`) and `?roles=` (by default `creator_id`): names with commas in any case;
        what is unknown is passed over. And from `?limit=` (or `per_page`) and `?marker=` (or `pagination_token`).

        Raises `InvalidRequest`.
        """
        return cls(
            states=frozenset(_chosen(query.get("status"), _STATES, ("ACTIVE",))),
            roles=_chosen(query.get("roles"), ROLES, ("creator_id",)),
            limit=_limit(query.get("limit") or query.get("per_page") or ""),
            marker=query.get("marker") or query.get("pagination_token") or "",
        )

    def address(self, path: str, marker: str) -> str:
        """Where the page is that begins at a marker."""
        states = ",".join(state.lower() for state in _STATES if state in self.states)
        query = {"status": states, "roles": ",".join(self.roles), "limit": self.limit, "marker": marker}
        return f"{quote(path)}?{urlencode(query)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a list; `marker` is where the next one begins, if there may be one."""

    actions: Sequence[ActionRecord]
    marker: str = ""


async def enumerate_actions(service: Service, provider: Provider, path: str, caller: Caller, wanted: Wanted) -> Page:
    """A page of the actions of the provider at `path` in which the caller has one of the roles, and that have one of
    the states: those that go on in the order of their beginning, then those that have ended in the order of their ends.

    It may have fewer actions than its limit though there are more: `marker` tells. Raises `InvalidRequest` for a marker
    of another list.
    """
    reader = _Reader(service, provider, wanted, await _lists(caller, path, wanted))
    return await reader.page()


class _Reader:
    """Reads one page from several lists, one after the other."""

    def __init__(self, service: Service, provider: Provider, wanted: Wanted, lists: Sequence[ActionList]) -> None:
        self._service = service
        self._provider = provider
        self._wanted = wanted
        self._lists = lists
        self._places = {each: place for place, each in enumerate(lists)}
        self._found: list[ActionRecord] = []

    async def page(self) -> Page:
        place, start = self._beginning()
        for _ in range(_MOST_READS):
            room = self._wanted.limit - len(self._found)
            if place == len(self._lists) or not room:
                break
            entries = await self._service.tables.actions.lists.page(self._lists[place], start=start, limit=room)
            if entries:
                start = entries[-1].after
                await self._take(place, [entry.key for entry in entries])
            if len(entries) < room:
                place, start = place + 1, 1
        if place == len(self._lists):
            return Page(actions=self._found)
        return Page(actions=self._found, marker=f"{_name(self._lists[place])}-{start}")

    def _beginning(self) -> tuple[int, int]:
        if not self._wanted.marker:
            return 0, 1
        name, _, start = self._wanted.marker.partition("-")
        for place, each in enumerate(self._lists):
            if _name(each) == name and start.isdecimal() and len(start) < 20:
                return place, int(start)
        problem = f"{self._wanted.marker[:80]!r} is not a marker of this list"
        raise InvalidRequest(f"Field 'marker': {problem}", violations=(Violation(pointer="?marker", problem=problem),))

    async def _take(self, place: int, keys: Sequence[str]) -> None:
        actions = self._service.tables.actions
        records = await actions.under(keys)
        rows = [records[key] for key in keys if key in records and self._first_place(records[key]) == place]
        if self._lists[place].state == "open":
            rows = await self._as_they_are(rows)
        self._found += [row.value for row in rows if row.value.status in self._wanted.states]

    def _first_place(self, row: ActionRow) -> int | None:
        """In which of the lists an action is told of: the first one in which it belongs."""
        listed = listed_as(row.key, row.value)
        places = (
            self._places.get(ActionList(state=listed.state, role=role, urn=canonical(urn), provider=listed.provider))
            for role, urn in listed.holders
        )
        return min((place for place in places if place is not None), default=None)

    async def _as_they_are(self, rows: Sequence[ActionRow]) -> list[ActionRow]:
        """The actions as they are now, without those that have ended: they are in another list from now on."""
        at_once = asyncio.Semaphore(_STATUSES_AT_ONCE)

        async def status(row: ActionRow) -> ActionRow | None:
            async with at_once:
                try:
                    return await lives.status(self._service, self._provider, row)
                except NotFound:
                    return None  # released in this moment

        now = await asyncio.gather(*map(status, rows))
        return [row for row in now if row is not None and not row.value.final]


async def _lists(caller: Caller, path: str, wanted: Wanted) -> list[ActionList]:
    own = {caller.principal, *caller.linked}
    shared = set(caller.urns) | own
    if caller.find_groups is not None and set(wanted.roles) - {"creator_id"}:
        shared |= await caller.find_groups()
    states = {_LISTS[state] for state in wanted.states}
    return [
        ActionList(state=state, role=role, urn=urn, provider=path)
        for state in _LIST_STATES
        if state in states
        for role in wanted.roles
        for urn in sorted({canonical(each) for each in (own if role == "creator_id" else shared)})
    ]


def _name(of: ActionList) -> str:
    return hashlib.blake2b(of.pattern.encode(), digest_size=6).hexdigest()


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not text.isdecimal() or len(text) > 9 or int(text) == 0:
        problem = f"{text[:40]!r} is not a number from 1 on"
        raise InvalidRequest(f"Field 'limit': {problem}", violations=(Violation(pointer="?limit", problem=problem),))
    return min(int(text), MOST_PER_PAGE)


def _chosen(given: str | None, known: Iterable[_Name], default: tuple[_Name, ...]) -> tuple[_Name, ...]:
    wanted = {name.strip().lower() for name in (given or "").split(",")}
    return tuple(name for name in known if name.lower() in wanted) or default
