"""Actions that wait for events: how far each has looked, and what it has found. The record of the action holds it all.

What a wait has found follows from its filter and from how far it has looked, so whoever looks further, and however many
do, comes to the same.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

import msgspec

from headrace.bus.errors import RecordConflict
from headrace.bus.eventing.arrivals import Arrived, arrived_after
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.filters import Filter, compile_filter
from headrace.bus.nats.connection import Connection
from headrace.bus.store.actions import ActionRecord, Actions, EventWait, FoundEvent, WaitRecord
from headrace.bus.store.records import Record

MOST_SHOWN_BYTES: Final = 64 * 1024
"""So much of the events goes into an action, the first one twice; of others the data is left out. (All of a flow holds
200 KB.)"""

TOO_LATE: Final = "DeadlineExceeded"
"""The code of an action whose deadline has passed."""

BUS_DELETED: Final = "BusDeleted"
"""The code of an action that waited for events of a bus which is there no more."""

_REMEMBERED_S = 3600.0

Row = Record[ActionRecord]


class Wait:
    """One waiting action in memory, ready to be shown events."""

    def __init__(self, row: Row) -> None:
        """Raises `FilterInvalid` when this release cannot use the filter."""
        self.row = row
        self._state = _state_of(row)
        self.filter: Filter = compile_filter(self._state.filter)

    @property
    def state(self) -> EventWait:
        """How far it has looked, and what it has found."""
        return self._state

    @property
    def complete(self) -> bool:
        """Whether it has found all that it waits for."""
        return len(self._state.found) >= self._state.count

    @property
    def unsaved(self) -> int:
        """How many sequences it has looked at since its record was written; 0 when nothing is new."""
        return self._state.position - _state_of(self.row).position

    @property
    def has_news(self) -> bool:
        """Whether it has found something that its record does not have."""
        return len(self._state.found) > len(_state_of(self.row).found)

    def take(self, arrived: Arrived, *, fits: bool | None = None) -> None:
        """Look at the next event, unless it was looked at; `fits` says that somebody else has evaluated the filter."""
        if arrived.sequence <= self._state.position or self.complete:
            return
        found = self._state.found
        event = arrived.event if self._in_time(arrived) else None
        if event is not None and (self.filter.matches(event) if fits is None else fits):
            found = (*found, self._shown(arrived, event))
        self._state = msgspec.structs.replace(self._state, position=arrived.sequence, found=found)

    def looked(self, position: int) -> None:
        """Nothing up to this sequence fits that was not taken."""
        if position > self._state.position and not self.complete:
            self._state = msgspec.structs.replace(self._state, position=position)

    def adopt(self, row: Row) -> None:
        """Somebody else wrote the record: go on from whichever is further."""
        self.row = row
        if _state_of(row).position > self._state.position:
            self._state = _state_of(row)

    def _in_time(self, arrived: Arrived) -> bool:
        deadline = self.row.value.deadline
        return deadline is None or arrived.stored_at <= deadline

    def _shown(self, arrived: Arrived, event: CloudEvent) -> FoundEvent:
        document = dict(event.document)
        room = MOST_SHOWN_BYTES - sum(each.size for each in self._state.found)
        size = len(event.encode())
        if size > room:
            document = {name: value for name, value in document.items() if name not in ("data", "data_base64")}
            return FoundEvent(sequence=arrived.sequence, at=arrived.stored_at, event=document, cut=True)
        return FoundEvent(sequence=arrived.sequence, at=arrived.stored_at, event=document, size=size)


def _state_of(row: Row) -> EventWait:
    if row.value.wait is None:
        raise ValueError(f"the action {row.value.action_id} waits for no event")
    return row.value.wait


def success(record: ActionRecord, state: EventWait) -> ActionRecord:
    """The record of an action that has found its events."""
    count = len(state.found)
    return msgspec.structs.replace(
        record,
        wait=state,
        status="SUCCEEDED",
        display_status="1 event came" if count == 1 else f"{count} events came",
        details=found_details(state),
        ended_at=max(state.found[-1].at, record.started_at),
    )


def failure(
    record: ActionRecord, state: EventWait, *, code: str, description: str, display_status: str
) -> ActionRecord:
    """The record of an action that was given up."""
    return msgspec.structs.replace(
        record,
        wait=state,
        status="FAILED",
        display_status=display_status,
        details={"code": code, "description": description, **found_details(state)},
        ended_at=time.time(),
    )


def too_late(record: ActionRecord, state: EventWait) -> ActionRecord:
    """The record of an action whose deadline has passed."""
    came = f"{len(state.found)} of {state.count} events came" if state.found else "no event came"
    return failure(
        record,
        state,
        code=TOO_LATE,
        description=f"Until the deadline {came} that the filter lets pass",
        display_status="Deadline exceeded",
    )


def found_details(state: EventWait) -> dict[str, Any]:
    """What is shown of what was found: the first event, all of them, and their sequences."""
    documents = [each.event for each in state.found]
    cut = [each.sequence for each in state.found if each.cut]
    return {
        "bus": state.bus,
        "event": documents[0] if documents else None,
        "events": documents,
        "sequences": [each.sequence for each in state.found],
        # Where a later wait goes on, as its `since`.
        "last_sequence": state.found[-1].sequence if state.found else state.since,
        **({"data_left_out": cut} if cut else {}),
    }


async def end(actions: Actions, row: Row, ended: ActionRecord) -> Row | None:
    """Write an end, whatever is written in between about an action that goes on. None when it was released."""
    while True:
        stored = await actions.finish(row, ended)
        if stored is None or stored.value.final:
            return stored
        row = stored


async def end_waits_on(actions: Actions, bus: str) -> None:
    """Fail the actions that wait for events of a bus which was deleted. Raises `BusUnavailable`."""
    for pointer in await actions.waits.list():
        if pointer.value.bus != bus or pointer.value.ended:
            continue
        row = await actions.by_key(pointer.key)
        if row is not None and row.value.action_id == pointer.value.action_id and not row.value.final:
            ended = failure(
                row.value,
                _state_of(row),
                code=BUS_DELETED,
                description=f"the bus {bus!r} was deleted",
                display_status="Bus deleted",
            )
            await end(actions, row, ended)
        await forget(actions, pointer)


async def save(actions: Actions, wait: Wait) -> bool:
    """Write how far it has looked, or its success; whether it goes on. What somebody else wrote is adopted."""
    while True:
        record = wait.row.value
        if wait.complete:
            ended = await end(actions, wait.row, success(record, wait.state))
            if ended is not None:
                wait.row = ended
            return False
        changed = msgspec.structs.replace(record, wait=wait.state)
        stored = await actions.change(wait.row, changed)
        if stored is None:
            return False
        mine = stored.value == changed
        wait.adopt(stored)
        if stored.value.final:
            return False
        if mine or not (wait.unsaved or wait.has_news):
            return True


async def forget(actions: Actions, pointer: Record[WaitRecord] | None) -> None:
    """Tell everybody that an action waits no more."""
    if pointer is not None and not pointer.value.ended:
        # A conflict: somebody else was first, or the same request has started another action since.
        with contextlib.suppress(RecordConflict):
            ended = msgspec.structs.replace(pointer.value, ended=True)
            await actions.waits.update(pointer, ended, ttl_s=_REMEMBERED_S)


async def catch_up(connection: Connection, wait: Wait, *, most_pages: int | None = None) -> bool:
    """Look at what lies on the bus, up to its end or until all is found; whether that was reached."""
    pages = 0
    while not wait.complete:
        page, more = await arrived_after(connection, wait.state.bus, wait.state.position)
        for arrived in page:
            wait.take(arrived)
        pages += 1
        if not more or not page:
            return True
        if most_pages is not None and pages >= most_pages:
            return False
    return True
