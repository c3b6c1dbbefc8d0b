"""Background tasks of the service: they may die, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from service import RunningService, running_service

from headrace.action_provider.app import open_service
from headrace.action_provider.background import Job, keep_running
from headrace.action_provider.state import Service


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), dispatcher=False) as running:
        yield running


def test_a_job_that_dies_is_told_of_and_started_again(
    service: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []
    alive = asyncio.Event()

    async def fragile(_: Service) -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            raise RuntimeError(f"death number {len(runs)}")
        alive.set()
        await asyncio.Event().wait()

    async def work() -> float | None:
        job = Job(name="fragile", run=fragile, wanted=lambda settings: True)
        async with open_service(service.settings) as opened, asyncio.timeout(10):
            task = asyncio.create_task(keep_running(job, opened, first_pause_s=0.01), name="test")
            await alive.wait()
            task.cancel()
            return opened.metrics.registry.get_sample_value("headrace_job_restarts_total", {"job": "fragile"})

    assert service.loop.run(work()) == 2
    assert "The fragile died" in caplog.text
    assert "death number 2" in caplog.text


def test_the_service_answers_without_its_dispatcher(service: RunningService) -> None:
    assert service.http().get("/readyz").status_code == 200
