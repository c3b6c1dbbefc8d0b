"""Lists of actions by role, person or group, provider and state, in the stream ACTION_LISTS.

    listed.<state>.<role>.<who>.<provider>.<key>       an empty message for each action in a list

    state    `open` for what goes on, `succeeded` and `failed` for what has ended
    role     `creator_id`, `monitor_by` or `manage_by`
    who      a hash of the URN that has the role
    key      that of the action's record, with `-` in place of its dots

A page of a list is one read of as many messages as the page has, wherever it begins; nobody reads the whole. Entries
say where to look, the records decide: an entry without its record, or in the list of another state, is passed over, and
`mend` puts in order what a crash left. So the entries are written without a sync, and nobody waits for those of an end.
An action that ends while its `run` is answered is never listed as open.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from headrace.bus.errors import BusError
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.listening import Subscription
from headrace.bus.nats.message import Message
from headrace.bus.store.streams import GIB, Stream, ensure_stream, purge
from headrace.bus.urns import canonical

logger = logging.getLogger(__name__)

Role = Literal["creator_id", "monitor_by", "manage_by"]
ListState = Literal["open", "succeeded", "failed"]

ROLES: Final[tuple[Role, ...]] = ("creator_id", "monitor_by", "manage_by")

_STREAM = "ACTION_LISTS"
_MENDED = "listed.mended"
_ALL_OPEN = "listed.open.creator_id.>"
"""Each open action has one creator."""
_MOST_SUBJECTS = 900
"""So many subjects, and hardly more, can be asked for in one read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What the lists need to know of an action."""

    key: str
    provider: str
    state: ListState
    holders: tuple[tuple[Role, str], ...]
    """Roles, each with the URN that has it."""
    life_s: float
    """How long its record is kept from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionList:
    """One list: the actions of a provider in which somebody has a role, and that are in a state."""

    state: ListState
    role: Role
    urn: str
    provider: str

    @property
    def pattern(self) -> str:
        """The subjects of its entries."""
        return f"{_head(self.state, self.role, self.urn, self.provider)}.*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An action in a list: the key of its record, and the place where the list goes on after it."""

    key: str
    after: int


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """How far the records have been compared with the lists: sequences of their bucket."""

    up_to: int = 0
    before: int = 0
    """How far at the time before."""


class ActionLists:
    """The lists of all actions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def ensure(self, *, replicas: int = 1) -> None:
        """Create the stream where it is missing."""
        options = {"max_msgs_per_subject": 1, "allow_direct": True, "allow_msg_ttl": True, "max_bytes": 4 * GIB}
        at_creation = {} if replicas > 1 else {"persist_mode": "async"}
        await ensure_stream(self._connection, Stream(_STREAM, ("listed.>",), options, at_creation), replicas=replicas)

    async def enter(self, listed: Listed) -> None:
        """Put an action into the lists of its state. Idempotent."""
        for subject in _subjects(listed, listed.state):
            await self._connection.store(subject, b"", headers=_life(listed))

    async def enter_soon(self, listed: Listed) -> None:
        """The same, without waiting until it is done."""
        for subject in _subjects(listed, listed.state):
            await self._connection.publish(subject, headers=_life(listed))

    async def leave(self, listed: Listed, *states: ListState) -> None:
        """Take an action out of the lists of these states; nothing happens where it is in none."""
        for state in states:
            for subject in _subjects(listed, state):
                await purge(self._connection, _STREAM, subject)

    async def page(self, of: ActionList, *, start: int, limit: int) -> list[Entry]:
        """At most `limit` entries of a list from a place on, in the order in which they came; 1 is the beginning."""
        query = {"seq": max(1, start), "next_by_subj": of.pattern, "batch": limit}
        messages, _ = await self._connection.read_many(_STREAM, query)
        return [Entry(key=_key_in(message.subject), after=message.sequence + 1) for message in messages]

    async def follow_open(self, on_key: Callable[[str], None]) -> Subscription:
        """Tell of the key of each action that is listed as open from now on, until the subscription is cancelled."""

        def heard(message: Message) -> None:
            on_key(_key_in(message.subject))

        subscription = await self._connection.subscribe(_ALL_OPEN, heard)
        await self._connection.flush()
        return subscription

    async def open_keys(self) -> AsyncIterator[str]:
        """The keys of all actions that are listed as open."""
        async for page in pages.messages(self._connection, _STREAM, _ALL_OPEN, batch=_MOST_SUBJECTS):
            for message in page:
                yield _key_in(message.subject)

    async def mend(self, actions: Sequence[Listed]) -> int:
        """Put what is missing into the lists, and take what has ended out of those of open actions; how many
        entries that were."""
        wanted = {subject: each for each in actions for subject in _subjects(each, each.state)}
        stale = {subject for each in actions if each.state != "open" for subject in _subjects(each, "open")}
        there = await self._present([*wanted, *stale])
        missing = wanted.keys() - there
        for subject in missing:
            await self._connection.store(subject, b"", headers=_life(wanted[subject]))
        for subject in stale & there:
            await purge(self._connection, _STREAM, subject)
        return len(missing) + len(stale & there)

    async def mended(self) -> Mended:
        """How far `mend` has come."""
        message = await self._connection.read_last(_STREAM, _MENDED)
        if message is not None:
            try:
                return msgspec.json.decode(message.data, type=Mended)
            except msgspec.MsgspecError:
                logger.warning("How far the lists of actions are in order cannot be read: all are looked at.")
        return Mended()

    async def remember_mended(self, mended: Mended) -> None:
        """Keep it."""
        await self._connection.store(_MENDED, msgspec.json.encode(mended))

    async def _present(self, subjects: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for some in _slices(subjects, _MOST_SUBJECTS):
            messages, pending = await self._connection.read_many(_STREAM, {"multi_last": some, "batch": len(some)})
            if pending:
                raise BusError(f"{pending} entries of lists were left out of an answer")
            found.update(message.subject for message in messages)
        return found


def _key_in(subject: str) -> str:
    return subject.rpartition(".")[2].replace("-", ".")


def _subjects(listed: Listed, state: ListState) -> Iterable[str]:
    place = listed.key.replace(".", "-")
    return {f"{_head(state, role, urn, listed.provider)}.{place}": None for role, urn in listed.holders}


@functools.lru_cache(maxsize=1024)
def _head(state: ListState, role: Role, urn: str, provider: str) -> str:
    return f"listed.{state}.{role}.{_hash(canonical(urn))}.{_hash(provider)}"


def _life(listed: Listed) -> dict[str, str]:
    return {"Nats-TTL": f"{max(1, round(listed.life_s))}s"}


def _slices(items: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
