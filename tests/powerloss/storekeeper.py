"""Stores things of every kind until the power fails, and knows what was acknowledged."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from random import Random

import msgspec

from headrace.bus.installation.operator import Operator
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.store.records import Records
from headrace.bus.store.streams import StreamSettings, ensure, ensure_consumer

_CONSUMER = "powerloss"
_SIZES = (10, 200, 3_000, 60_000)
_ANSWER_WAIT_S = 30.0


class Note(msgspec.Struct, frozen=True):
    """A record as the product has them."""

    text: str


@dataclass(slots=True)
class Ledger:
    """What the store said is stored, and what it said is removed."""

    stored: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    @property
    def entries(self) -> int:
        return len(self.stored) + len(self.notes) + len(self.removed)


@dataclass(slots=True)
class Missing:
    """What a later look did not find."""

    stored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    """What was removed and is there again."""

    @property
    def lost(self) -> list[str]:
        return [*self.stored, *self.notes]


class Storekeeper:
    """One life of the store: `prepare`, then `keep_storing` until the connection goes."""

    def __init__(self, url: str, operator: Operator, ledger: Ledger, random: Random) -> None:
        self._connection = Connection([url], operator.minter.core_user("powerloss", 600), name="powerloss")
        self._notes = Records(self._connection, "notes", Note)
        self._ledger = ledger
        self._random = random
        self._taken: set[str] = set()

    async def __aenter__(self) -> Storekeeper:
        await self._connection.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def prepare(self) -> None:
        """What a service does when it starts."""
        await ensure(self._connection, StreamSettings())
        await self._notes.ensure()
        await ensure_consumer(
            self._connection, "TASKS", _CONSUMER, filter_subjects=("task.>",), ack_wait_s=60, max_ack_pending=1000
        )

    async def missing(self) -> Missing:
        """What was acknowledged and is not there, or not the same."""
        missing = Missing()
        for subject, (stream, data) in self._ledger.stored.items():
            found = await self._connection.read_last(stream, subject)
            if found is None or found.data != data:
                missing.stored.append(subject)
        for key, text in self._ledger.notes.items():
            record = await self._notes.get(key)
            if record is None or record.value.text != text:
                missing.notes.append(key)
        for subject in self._ledger.removed:
            if await self._connection.read_last("TASKS", subject) is not None:
                missing.back.append(subject)
        return missing

    async def keep_storing(self) -> None:
        """Store until cancelled, from several tasks at once."""
        streams = {
            "TASKS": "task.e.p.a.g",
            "RESULTS": "result.e.a.g",
            "EVENTS": "event.default",
            "DEADLETTERS": "deadletter",
        }
        async with asyncio.TaskGroup() as tasks:
            for stream, prefix in streams.items():
                for _ in range(2):
                    tasks.create_task(self._keep_messages(stream, prefix), name=f"messages of {stream}")
            tasks.create_task(self._keep_notes(), name="notes")
            tasks.create_task(self._keep_taking(), name="taking")

    async def _keep_messages(self, stream: str, prefix: str) -> None:
        while True:
            subject = f"{prefix}.{self._random.getrandbits(60)}"
            data = self._random.randbytes(self._random.choice(_SIZES))
            await self._connection.store(subject, data, timeout_s=_ANSWER_WAIT_S)
            if subject not in self._taken:
                self._ledger.stored[subject] = (stream, data)

    async def _keep_notes(self) -> None:
        """Change records again and again: an acknowledged change must not be taken back to the one before."""
        while True:
            key, text = str(self._random.randrange(20)), str(self._random.getrandbits(60))
            self._ledger.notes.pop(key, None)  # until the answer is here either may be there
            await self._notes.put(key, Note(text))
            self._ledger.notes[key] = text

    async def _keep_taking(self) -> None:
        """Take tasks off the queue, as a pool does."""
        taken: asyncio.Queue[Message] = asyncio.Queue()
        inbox = await self._connection.subscribe_inbox("pull", taken.put_nowait)
        request = json.dumps({"batch": 1, "expires": 60_000_000_000}).encode()
        while True:
            await self._connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.TASKS.{_CONSUMER}", request, reply=inbox.subject)
            message = await taken.get()
            if message.status:
                continue
            # From here on it may be there or not: the removal may be stored before we hear of it.
            self._taken.add(message.subject)
            self._ledger.stored.pop(message.subject, None)
            await self._connection.request(message.reply, b"+ACK", timeout_s=_ANSWER_WAIT_S)
            self._ledger.removed.add(message.subject)
