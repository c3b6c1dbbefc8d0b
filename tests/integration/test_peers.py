"""Processes of one pool tell each other over a real NATS server what they have in hand."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from uuid import UUID, uuid4

import pytest
from service import RunningService
from waiting import eventually_async

from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.names import peer_questions
from headrace.bus.nats.connection import Connection
from headrace.endpoint.agent.peer_messages import PROCESS_BYTES, Ask, PeerMessage, decode_peer
from headrace.endpoint.agent.peers import Peers
from headrace.endpoint.agent.side_tasks import SideTasks

pytestmark = pytest.mark.anyio

ENDPOINT = uuid4()


class Process:
    """One process of the pool: what it holds, and what it asks the others."""

    def __init__(self, connection: Connection, tasks: SideTasks) -> None:
        self.connection = connection
        self.held: set[UUID] = set()
        self.id = secrets.token_bytes(PROCESS_BYTES)
        self.peers = Peers(
            connection,
            tasks,
            process=self.id,
            endpoint=ENDPOINT,
            pool="default",
            holds=self.held.__contains__,
        )

    async def asks(self, bundle: UUID) -> bool:
        return await self.peers.hold(bundle, unless=lambda: False)


@contextlib.asynccontextmanager
async def process(service: RunningService) -> AsyncIterator[Process]:
    minter = ServiceKeys.load(service.keys_dir).minter
    credentials = minter.pool_user(ENDPOINT, "default", uuid4().hex, 600)
    tasks = SideTasks(on_death=lambda held: None)
    async with Connection([service.nats.url], credentials, name="a process of a pool") as connection:
        this = Process(connection, tasks)
        await this.peers.join()
        try:
            yield this
        finally:
            await tasks.end()


async def test_who_holds_a_bundle_says_so_and_who_has_left_holds_nothing(service: RunningService) -> None:
    bundles = [uuid4() for _ in range(600)]
    async with process(service) as first, process(service) as second, process(service) as third:
        second.held.update(bundles[:300])
        third.held.update(bundles[300:599])

        # All at once: more than one message holds.
        answers = [first.peers.hold(bundle, unless=lambda: False) for bundle in bundles[:599]]
        assert all([await answer for answer in map(_begun, answers)])
        assert not await first.asks(bundles[599])

        await second.peers.leave()
        assert not await first.asks(bundles[0])
        assert await first.asks(bundles[300])


async def test_who_has_a_new_connection_greets_the_others(service: RunningService) -> None:
    """They ask it again what it did not hear, and it knows who may hold something."""
    heard: list[PeerMessage] = []
    async with process(service) as first, process(service) as second:
        await second.connection.subscribe(
            peer_questions(ENDPOINT, "default"), lambda message: heard.append(decode_peer(message.data))
        )
        await second.connection.flush()

        minter = ServiceKeys.load(service.keys_dir).minter
        await first.connection.renew(minter.pool_user(ENDPOINT, "default", uuid4().hex, 600))

        greeting = await eventually_async(lambda: heard and heard[0], 10)
        assert greeting == Ask(first.id)


async def test_a_question_ends_when_nobody_else_can_hold_the_bundle_after_all(service: RunningService) -> None:
    known: list[bool] = []
    async with process(service) as only:
        answer = _begun(only.peers.hold(uuid4(), unless=lambda: bool(known)))
        known.append(True)
        only.peers.look()

        assert await answer is False


async def test_garbage_on_the_subject_harms_nobody(service: RunningService, caplog: pytest.LogCaptureFixture) -> None:
    bundle = uuid4()
    async with process(service) as first, process(service) as second:
        second.held.add(bundle)
        with caplog.at_level("INFO", "headrace.endpoint.agent.peers"):
            for garbage in (b"", b"HP\x01", b"HP\x01\x93\xa3ask\x01", secrets.token_bytes(500)):
                await first.connection.publish(peer_questions(ENDPOINT, "default"), garbage)
            await eventually_async(lambda: len(caplog.messages) >= 8, 5)

        assert await first.asks(bundle)
        assert all("Ignored" in message for message in caplog.messages)


def _begun(answer: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
    return asyncio.get_running_loop().create_task(answer)
