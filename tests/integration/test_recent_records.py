"""Records that are believed for a moment: changes are seen all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from service import RunningService

from headrace.bus.nats.connection import Connection
from headrace.bus.store.recent import RecentRecords
from headrace.bus.store.records import Record, Records


class Word(msgspec.Struct, frozen=True):
    text: str


async def prepared(connection: Connection) -> RecentRecords[Word]:
    records = RecentRecords(connection, "words", Word)
    await records.ensure()
    await records.listen()
    await records.put("a", Word("first"))
    return records


def said(record: Record[Word] | None) -> str | None:
    return None if record is None else record.value.text


def test_what_was_read_a_moment_ago_is_not_asked_for_again(service: RunningService) -> None:
    async def work(connection: Connection) -> Any:
        records = await prepared(connection)
        first = await records.recent("a")
        return first is await records.recent("a"), first is await records.get("a")

    assert service.bus(work) == (True, False)


@pytest.mark.parametrize("change", ["put", "update", "delete", "remove"])
def test_a_change_that_is_made_here_is_seen_at_once(service: RunningService, change: str) -> None:
    async def work(connection: Connection) -> str | None:
        records = await prepared(connection)
        record = await records.recent("a")
        assert record is not None
        match change:
            case "put":
                await records.put("a", Word("second"))
            case "update":
                await records.update(record, Word("second"))
            case "delete":
                await records.delete("a")
            case _:
                await records.remove(record)
        return said(await records.recent("a"))

    assert service.bus(work) == (None if change in ("delete", "remove") else "second")


def test_a_change_that_is_made_elsewhere_is_seen_when_the_bus_tells(service: RunningService) -> None:
    async def work(connection: Connection) -> str | None:
        records = await prepared(connection)
        heard = asyncio.Event()
        await records.recent("a")
        await connection.subscribe("changed.words.>", lambda _: heard.set())
        await connection.flush()
        heard.clear()
        await Records(connection, "words", Word).put("a", Word("from elsewhere"))
        await heard.wait()
        return said(await records.recent("a"))

    assert service.bus(work) == "from elsewhere"


def test_what_changes_while_it_is_read_is_not_believed(service: RunningService) -> None:
    async def work(connection: Connection) -> str | None:
        records = await prepared(connection)
        reading = asyncio.create_task(records.recent("a"))
        await asyncio.sleep(0)  # no time: it has begun
        await asyncio.gather(reading, records.put("a", Word("second")))
        return said(await records.recent("a"))

    assert service.bus(work) == "second"


def test_without_listening_every_read_is_asked_for(service: RunningService) -> None:
    async def work(connection: Connection) -> str | None:
        await prepared(connection)
        records = RecentRecords(connection, "words", Word)
        await records.recent("a")
        await Records(connection, "words", Word).put("a", Word("third"))
        return said(await records.recent("a"))

    assert service.bus(work) == "third"
