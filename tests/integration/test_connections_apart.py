"""Connections with one credential, as replicas of a service have: each gets its own answers, and only those."""

from __future__ import annotations

import asyncio
from pathlib import Path

from service import running_service

from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection


def test_connections_with_one_credential_do_not_take_each_others_answers(tmp_path: Path) -> None:
    with running_service(tmp_path, dispatcher=False) as service:
        core = ServiceKeys.load(service.keys_dir).core

        async def work(connection: Connection) -> None:
            async with Connection([service.nats.url], core, name="another") as other:
                assert connection.inbox_prefix != other.inbox_prefix

                async def store(number: int) -> None:
                    which = (connection, other)[number % 2]
                    stored = await which.store(f"event.default.n{number}", b"%d" % number)
                    found = await which.read_last("EVENTS", f"event.default.n{number}")
                    assert found is not None
                    assert (found.sequence, found.data) == (stored.sequence, b"%d" % number)

                await asyncio.gather(*(store(number) for number in range(400)))

        service.bus(work)
