"""Credentials are renewed in the middle of everything, and nobody notices."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from pathlib import Path

import pytest
from waiting import eventually_async

from headrace.bus.installation.credentials import Credentials
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.names import Address, stored_results
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.nats.pull import Delivery, Puller
from headrace.bus.store.streams import StreamSettings, ensure, ensure_consumer

pytestmark = pytest.mark.anyio

ADA = "urn:headrace:user:ada"
MESSAGES, RENEWALS = 400, 6


async def test_renewals_under_load_lose_no_delivery_and_repeat_no_submission(tmp_path: Path) -> None:
    operator, endpoint, group = Operator.open(tmp_path / "keys"), uuid.uuid4(), uuid.uuid4()
    minter, consumer = operator.minter, "lane-1"

    def sdk_credential() -> Credentials:
        return minter.sdk_user(ADA, endpoint, "default", uuid.uuid4().hex, 60)

    def pool_credential() -> Credentials:
        return minter.pool_user(endpoint, "default", uuid.uuid4().hex, 60)

    def address() -> Address:
        return Address(endpoint=endpoint, pool="default", principal=ADA, group=group, bundle=uuid.uuid4())

    async with (
        NatsServer(ServerSettings(accounts=operator.accounts(), directory=tmp_path / "nats", relaxed=True)) as server,
        Connection([server.url], minter.core_user("test", 600), name="test") as core,
    ):
        await ensure(core, StreamSettings())
        await ensure_consumer(
            core, "TASKS", consumer, filter_subjects=(f"task.{endpoint.hex}.>",), ack_wait_s=1, max_ack_pending=4096
        )
        async with (
            Connection([server.url], sdk_credential(), name="sdk") as sdk,
            Connection([server.url], pool_credential(), name="pool") as pool,
        ):
            delivered: Counter[str] = Counter()
            results: Counter[str] = Counter()
            repeated = 0

            def on_delivery(delivery: Delivery) -> None:
                nonlocal repeated
                delivered[delivery.subject] += 1
                repeated += delivery.retry
                where = Address.of_task_subject(delivery.subject).result_subject(0)
                works.add(asyncio.ensure_future(pool.publish(where, b"done")))
                works.add(asyncio.ensure_future(pool.publish(delivery.ack_subject, b"+ACK")))

            def on_result(message: Message) -> None:
                results[message.subject] += 1

            works: set[asyncio.Future[None]] = set()
            await sdk.subscribe(stored_results(endpoint, ADA, group), on_result)
            await sdk.flush()
            pulling = asyncio.create_task(Puller(pool, "TASKS", consumer, on_delivery).run(), name="pull")

            async def submit() -> None:
                for _ in range(MESSAGES // 8):
                    await sdk.store(address().task_subject, b"a bundle")

            submitting = [asyncio.create_task(submit(), name="submit") for _ in range(8)]
            for _ in range(RENEWALS):
                await asyncio.gather(pool.renew(pool_credential()), sdk.renew(sdk_credential()))
            await asyncio.gather(*submitting)

            # What the server was just sending to the connection that ended comes again after the time for acks; a
            # request that was lost count of would stand still for half a minute.
            await eventually_async(lambda: len(delivered) == MESSAGES, 5, "every bundle was delivered")
            await eventually_async(lambda: len(results) == MESSAGES, 5, "every result came live")
            assert repeated == 0
            pulling.cancel()
            await asyncio.gather(pulling, *works, return_exceptions=True)
