"""Credentials and signatures that live for seconds, and outages that last longer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from running_pool import running_pool
from service import running_service
from waiting import eventually

from headrace.sdk import Client, Executor
from headrace.sdk.future import TaskFuture

_LIFE_S = 4.0
_OUTAGE_S = 6.0


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_outages_longer_than_the_life_of_credentials_lose_no_task(tmp_path: Path) -> None:
    with (
        running_service(tmp_path, session_ttl_s=_LIFE_S) as service,
        running_pool(service, tmp_path / "pool") as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        futures: list[TaskFuture] = []

        def submit_for(duration_s: float) -> None:
            end = time.monotonic() + duration_s
            while time.monotonic() < end:
                futures.extend(executor.submit(pow, 2, len(futures) % 50) for _ in range(10))
                time.sleep(0.05)  # a rate: the load is to last as long as a credential

        for outage_s in (0.5, _OUTAGE_S):
            # Long enough for a renewal on the way.
            submit_for(_LIFE_S)
            done = sum(future.done() for future in futures)
            assert done
            service.nats.kill()
            service.loop.run(service.nats.wait())
            submit_for(outage_s)
            assert not all(future.done() for future in futures)
            service.loop.run(service.nats.start())
            back_at = time.monotonic()
            eventually(lambda: all(future.done() for future in futures), 40, "every future has its end")
            print(f"all had ended {time.monotonic() - back_at:.1f} s after an outage of {outage_s} s")  # noqa: T201 - shown in a long run, and when it fails
        assert [future.result() for future in futures] == [2 ** (number % 50) for number in range(len(futures))]
