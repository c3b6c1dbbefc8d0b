"""Submitting for those who speak JSON: with a real bus, a real service and a real pool."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from running_pool import RunningPool, running_pool
from service import RunningService
from waiting import eventually

from headrace.bus import ids
from headrace.bus.errors import PayloadTooLarge
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.keys import KeyRing
from headrace.bus.names import Address
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.tables import Tables
from headrace.bus.tasks import catching_up
from headrace.bus.tasks.cancelling import cancel
from headrace.bus.tasks.catching_up import catch_up
from headrace.bus.tasks.plain_results import plain_result
from headrace.bus.tasks.submission import (
    Call,
    Plan,
    Submission,
    Submitted,
    collect,
    collector,
    submit,
    submit_and_collect,
    task_ids,
)
from headrace.bus.tasks.task_views import find, find_group

ADA = "urn:headrace:user:ada"
BOB = "urn:headrace:user:bob"

DOUBLE = "def double(x, times=1):\n    return x * 2 * times\n"
NOTE = "def note(path, text):\n    with open(path, 'a') as file:\n        file.write(text)\n    return text\n"


class Desk:
    """The service's side of submitting, as one principal."""

    def __init__(self, service: RunningService, endpoint_id: str, principal: str = ADA) -> None:
        self.service = service
        self.keys: KeyRing = ServiceKeys.load(service.keys_dir).key_ring()
        self.endpoint = UUID(endpoint_id)
        self.principal = principal

    def submission(self, calls: list[Call], **more: Any) -> Submission:
        given: dict[str, Any] = {"principal": self.principal, "group": uuid.uuid4(), **more}
        return Submission(endpoint=self.endpoint, calls=calls, **given)

    def lanes(self, connection: Connection) -> Lanes:
        return Lanes(connection, self.keys, Tables.on(connection).lanes)

    def submit(self, submission: Submission) -> list[Submitted]:
        async def work(connection: Connection) -> list[Submitted]:
            return await submit(connection, self.keys, self.lanes(connection), submission)

        return list(self.service.bus(work))

    def outcomes(self, bundles: list[Submitted], wait_s: float = 10.0) -> list[Any]:
        """Each task's value, or its state when it has none."""

        async def work(connection: Connection) -> Any:
            return await collect(connection, self.keys, bundles, wait_s=wait_s)

        results = self.service.bus(work)
        return [
            None if result is None else (result.state if (plain := plain_result(result)).error else plain.value)
            for result in results
        ]

    def find(self, task_id: UUID, principal: str | None = None) -> Any:
        return self.service.bus(lambda c: find(c, self.keys, principal or self.principal, task_id))

    def find_group(self, group: UUID, principal: str | None = None) -> Any:
        return self.service.bus(lambda c: find_group(c, self.keys, principal or self.principal, group))

    def cancel(self, address: Address, indices: list[int] | None = None, *, force: bool = False) -> None:
        self.service.bus(lambda c: cancel(c, self.keys, address, indices, force=force))


@pytest.fixture(scope="module")
def pool(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(service, tmp_path_factory.mktemp("pool"), name="busy") as running:
        yield running


@pytest.fixture
def sleeping_pool(service: RunningService, tmp_path: Path) -> Iterator[RunningPool]:
    """A pool that has not been started yet."""
    with running_pool(service, tmp_path / "sleeping", started=False, name=f"sleeping {uuid.uuid4().hex}") as running:
        yield running


@pytest.fixture
def double(service: RunningService) -> UUID:
    return UUID(service.add_function(DOUBLE, "double", entry_point="double"))


@pytest.fixture
def note(service: RunningService) -> UUID:
    return UUID(service.add_function(NOTE, "note", entry_point="note"))


def test_calls_come_back_in_order_though_they_travel_in_several_bundles(
    service: RunningService, pool: RunningPool, double: UUID
) -> None:
    desk = Desk(service, pool.endpoint_id)

    bundles = desk.submit(desk.submission([Call(function=double, args=[n], kwargs={"times": 3}) for n in range(150)]))

    assert [bundle.total for bundle in bundles] == [64, 64, 22]
    assert desk.outcomes(bundles) == [n * 6 for n in range(150)]
    assert len(set(task_ids(bundles))) == 150


def test_one_call_is_stored_and_answered_without_reading_anything_twice(
    service: RunningService, pool: RunningPool, double: UUID
) -> None:
    desk = Desk(service, pool.endpoint_id)
    plan = Plan(desk.submission([Call(function=double, args=["ab"])]), max_payload=1_000_000)

    async def work(connection: Connection) -> Any:
        return await submit_and_collect(connection, desk.keys, desk.lanes(connection), plan, wait_s=30)

    (result,) = service.bus(work)

    assert plain_result(result).value == "abab"


def test_results_of_many_bundles_are_read_at_once_as_far_as_they_are_there(
    service: RunningService, pool: RunningPool, double: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(service, pool.endpoint_id)
    bundles = desk.submit(desk.submission([Call(function=double, args=[i]) for i in range(200)]))
    assert len(bundles) == 4
    desk.outcomes(bundles)
    never = Submitted(address=replace(bundles[0].address, bundle=ids.new_bundle_id(desk.endpoint)), total=1)

    async def read(connection: Connection) -> list[bool]:
        collectors = [collector(desk.keys, bundle) for bundle in [*bundles, never]]
        await catch_up(connection, collectors)
        values = [each.results[index].value for each in collectors[:4] for index in range(each.total or 0)]
        assert list(map(int, values)) == [2 * i for i in range(200)]
        return [each.complete for each in collectors]

    assert service.bus(read) == [True, True, True, True, False]
    # When there are more parts than an answer has, it takes several.
    monkeypatch.setattr(catching_up, "_MOST_PARTS", 1)
    assert service.bus(read) == [True, True, True, True, False]


def test_a_task_is_found_by_its_id_alone_queued_and_done(
    service: RunningService, sleeping_pool: RunningPool, double: UUID
) -> None:
    desk = Desk(service, sleeping_pool.endpoint_id)
    bundles = desk.submit(desk.submission([Call(function=double, args=[1]), Call(function=double, args=[2])]))
    task = task_ids(bundles)[1]

    queued = desk.find(task)
    assert queued.state == "pending"
    assert queued.address == bundles[0].address
    assert queued.index == 1

    sleeping_pool.start()
    assert desk.outcomes(bundles) == [2, 4]
    done = desk.find(task)
    assert done.state == "succeeded"
    assert plain_result(done.result).value == 4
    assert done.address.endpoint == UUID(sleeping_pool.endpoint_id)


def test_nobody_finds_a_task_that_is_not_theirs_or_not_there(
    service: RunningService, pool: RunningPool, double: UUID
) -> None:
    desk = Desk(service, pool.endpoint_id)
    bundles = desk.submit(desk.submission([Call(function=double, args=[1])]))
    desk.outcomes(bundles)
    task = task_ids(bundles)[0]

    assert desk.find(task, principal=BOB) is None
    assert desk.find(ids.task_id(bundles[0].address.bundle, 1)) is None
    assert desk.find(ids.new_bundle_id(desk.endpoint)) is None
    with pytest.raises(ValueError, match="not the id of a task"):
        desk.find(uuid.uuid4())


def test_a_group_shows_what_is_queued_and_what_is_done(
    service: RunningService, pool: RunningPool, sleeping_pool: RunningPool, double: UUID
) -> None:
    group = uuid.uuid4()
    awake, asleep = Desk(service, pool.endpoint_id), Desk(service, sleeping_pool.endpoint_id)
    calls = [Call(function=double, args=[n]) for n in range(70)]
    done = awake.submit(awake.submission(calls, group=group))
    awake.outcomes(done)
    queued = asleep.submit(asleep.submission(calls[:3], group=group))

    views = awake.find_group(group)

    assert {view.task_id for view in views if view.state == "succeeded"} == set(task_ids(done))
    assert {view.task_id for view in views if view.state == "pending"} == set(task_ids(queued))
    assert awake.find_group(group, principal=BOB) == []


def test_a_repeated_submission_has_one_effect_queued_or_done(
    service: RunningService, sleeping_pool: RunningPool, note: UUID, tmp_path: Path
) -> None:
    desk = Desk(service, sleeping_pool.endpoint_id)
    path = tmp_path / "notes"
    bundle = ids.repeatable_bundle_id(desk.endpoint, 0, "subscription", "event", "1")
    submission = desk.submission(
        [Call(function=note, args=[str(path), "x"])], group=uuid.uuid4(), first_bundle=bundle, retry=True
    )

    first = desk.submit(submission)
    again = desk.submit(submission)
    sleeping_pool.start()
    assert desk.outcomes(first) == ["x"]
    # Its results are stored, its message is gone: only the retry flag keeps it from running again.
    third = desk.submit(submission)
    assert desk.outcomes(third) == ["x"]
    last = desk.submit(desk.submission([Call(function=note, args=[str(path), "."])]))
    assert desk.outcomes(last) == ["."]

    assert first == again == third
    assert path.read_text() == "x."


def test_what_is_cancelled_while_the_pool_is_away_never_starts(
    service: RunningService, sleeping_pool: RunningPool, note: UUID, tmp_path: Path
) -> None:
    desk = Desk(service, sleeping_pool.endpoint_id)
    path = tmp_path / "notes"
    calls = [Call(function=note, args=[str(path), str(n)]) for n in range(4)]
    bundles = desk.submit(desk.submission(calls))

    desk.cancel(bundles[0].address, [1])
    desk.cancel(bundles[0].address, [3], force=True)
    sleeping_pool.start()

    assert desk.outcomes(bundles) == ["0", "cancelled", "2", "cancelled"]
    assert sorted(path.read_text()) == ["0", "2"]
    eventually(lambda: service.bus(lambda c: c.read_last("TASKS", bundles[0].address.task_subject)) is None)


def test_concurrent_cancellations_all_count(service: RunningService, sleeping_pool: RunningPool, double: UUID) -> None:
    desk = Desk(service, sleeping_pool.endpoint_id)
    bundles = desk.submit(desk.submission([Call(function=double, args=[n]) for n in range(20)]))

    async def all_at_once(connection: Connection) -> None:
        await asyncio.gather(*(cancel(connection, desk.keys, bundles[0].address, [n]) for n in range(20)))

    service.bus(all_at_once)
    sleeping_pool.start()

    assert desk.outcomes(bundles) == ["cancelled"] * 20


def test_a_running_task_is_stopped_by_force(service: RunningService, pool: RunningPool, tmp_path: Path) -> None:
    source = "def hang(path):\n    import threading\n    open(path, 'w').close()\n    threading.Event().wait()\n"
    hang = UUID(service.add_function(source, "hang", entry_point="hang"))
    desk = Desk(service, pool.endpoint_id)
    started = tmp_path / "started"
    bundles = desk.submit(desk.submission([Call(function=hang, args=[str(started)])]))
    eventually(started.exists, 10, "the task started")

    desk.cancel(bundles[0].address, force=True)

    assert desk.outcomes(bundles) == ["cancelled"]


def test_large_arguments_are_spread_over_messages_and_one_too_large_is_refused(
    service: RunningService, pool: RunningPool, double: UUID
) -> None:
    desk = Desk(service, pool.endpoint_id)
    bundles = desk.submit(desk.submission([Call(function=double, args=["x" * 3_000_000, 0]) for _ in range(4)]))

    assert [bundle.total for bundle in bundles] == [2, 2]
    assert desk.outcomes(bundles) == [""] * 4

    with pytest.raises(PayloadTooLarge) as refused:
        desk.submit(desk.submission([Call(function=double, args=["x" * 9_000_000])]))
    assert refused.value.limit < 9_000_000


def test_a_value_that_json_cannot_carry_is_an_error_of_the_task(service: RunningService, pool: RunningPool) -> None:
    odd = UUID(service.add_function("def odd():\n    return object()\n", "odd", entry_point="odd"))
    desk = Desk(service, pool.endpoint_id)

    bundles = desk.submit(desk.submission([Call(function=odd)]))

    assert desk.outcomes(bundles) == ["failed"]
    error = plain_result(desk.find(task_ids(bundles)[0]).result).error
    assert error is not None
    assert error["code"] == "ResultNotSerialisable"
