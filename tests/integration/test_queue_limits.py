"""Queue limits: who has enough queued at an endpoint is told so, and others go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.bus.errors import BusError, QueueFull
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.backlog import Backlog
from headrace.sdk import Client
from headrace.sdk.grant import Grant

LIMIT = 3


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), queue_watch_s=0.1) as service:
        yield service


@pytest.fixture
def pool(service: RunningService, tmp_path: Path) -> Iterator[RunningPool]:
    """The pool of a public endpoint; it is started when a test wants it."""
    with running_pool(service, tmp_path / "pool", workers=1, started=False, name=uuid4().hex) as pool:
        yield pool


def limit(service: RunningService, pool: RunningPool, **limits: int) -> None:
    answer = service.http().patch(
        f"/api/v1/endpoints/{pool.endpoint_id}", json={"public": True, "queue_limits": limits}
    )
    assert answer.json()["queue_limits"] == {"bundles": None, "bundles_per_principal": None, **limits}


def submit(service: RunningService, pool: RunningPool, token: str | None = None, tasks: int = 1) -> httpx.Response:
    call = {"function_id": service.add_function(public=True), "args": [1]}
    return service.http(token).post(f"/api/v1/endpoints/{pool.endpoint_id}/tasks", json={"tasks": [call] * tasks})


def queue(service: RunningService, pool: RunningPool, token: str | None = None) -> dict[str, Any]:
    answer = service.http(token).get(f"/api/v1/endpoints/{pool.endpoint_id}/queue")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_user_who_has_as_much_queued_as_is_allowed_is_refused_and_others_are_not(
    service: RunningService, pool: RunningPool
) -> None:
    limit(service, pool, bundles_per_principal=LIMIT)
    grace = service.add_user(f"grace{uuid4().hex}")
    assert [submit(service, pool).status_code for _ in range(LIMIT)] == [202] * LIMIT

    refused = submit(service, pool)

    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    assert {"code": "QueueFull", "limit": LIMIT, "used": LIMIT}.items() <= refused.json().items()
    assert "3 unfinished bundles" in refused.json()["detail"]
    assert submit(service, pool, grace).status_code == 202
    # As soon as something has ended there is room again.
    pool.start()
    eventually(lambda: submit(service, pool).status_code == 202, 10)


def test_a_request_that_can_never_fit_is_refused_whole(service: RunningService, pool: RunningPool) -> None:
    limit(service, pool, bundles_per_principal=LIMIT)

    refused = submit(service, pool, tasks=64 * LIMIT + 1)

    assert refused.status_code == 429
    assert "submit fewer tasks at a time" in refused.json()["detail"]
    assert queue(service, pool)["used"] == 0


def test_all_users_together_fill_an_endpoint(service: RunningService, pool: RunningPool) -> None:
    limit(service, pool, bundles=LIMIT)
    users = [service.add_user(f"user{uuid4().hex}") for _ in range(2)]
    assert [submit(service, pool, user).status_code for user in (*users, None)] == [202] * LIMIT

    refused = submit(service, pool, users[0])

    assert refused.status_code == 429
    assert "all its users together" in refused.json()["detail"]


@pytest.mark.parametrize("kind", ["bundles", "bundles_per_principal"])
def test_of_many_that_ask_at_the_same_moment_no_more_are_let_in_than_there_is_room_for(
    service: RunningService, pool: RunningPool, kind: str
) -> None:
    limit(service, pool, **{kind: LIMIT})

    async def ask(connection: Connection) -> list[Any]:
        tables = Tables.on(connection)
        endpoint = await tables.endpoints.get(UUID(pool.endpoint_id).hex)
        assert endpoint is not None
        keys = ServiceKeys.load(service.keys_dir).key_ring()
        backlog = Backlog(Lanes(connection, keys, tables.lanes))
        asking = (backlog.admit(endpoint.value, "urn:headrace:user:admin", 1) for _ in range(10))
        return await asyncio.gather(*asking, return_exceptions=True)

    answers = service.bus(ask)

    assert answers.count(None) == LIMIT
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 10 - LIMIT


def test_an_action_over_the_limit_is_refused_and_its_repetition_is_not(
    service: RunningService, pool: RunningPool
) -> None:
    limit(service, pool, bundles_per_principal=1)
    function = service.add_function()
    request = {
        "request_id": uuid4().hex,
        "body": {"endpoint_id": pool.endpoint_id, "tasks": [{"function_id": function, "args": [1]}]},
    }
    http, url = service.http(), "/actions/compute/v3/run"
    first = http.post(url, json=request)
    assert first.status_code == 202, first.text

    second = http.post(url, json={**request, "request_id": uuid4().hex})

    assert second.status_code == 429
    assert second.json()["code"] == "QueueFull"
    assert http.post(url, json=request).json()["action_id"] == first.json()["action_id"]


def test_everybody_sees_their_own_part_of_the_queue_and_the_owner_all_of_it(
    service: RunningService, pool: RunningPool
) -> None:
    limit(service, pool, bundles_per_principal=LIMIT)
    name = f"grace{uuid4().hex}"
    grace = service.add_user(name)
    assert submit(service, pool).status_code == submit(service, pool, grace).status_code == 202
    assert submit(service, pool, grace).status_code == 202

    seen = queue(service, pool, grace)
    assert seen["own"] == {"bundles": LIMIT, "used": 2, "room": 1, "may_submit": True}
    assert "principals" not in seen
    everything = queue(service, pool)
    assert (everything["used"], everything["bundles_per_principal"], everything["bundles"]) == (3, LIMIT, None)
    assert everything["principals"] == [
        {"principal": f"urn:headrace:user:{name}", "waiting": 2, "taken": 0},
        {"principal": "urn:headrace:user:admin", "waiting": 1, "taken": 0},
    ]
    with Client(service.url, grace) as client:
        assert client.open_session(pool.endpoint_id)["queue_limit"]["room"] == 1


async def is_shut_out(grant: Grant) -> bool:
    try:
        async with Connection(grant.urls, grant.credentials, name="shut out?"):
            return False
    except BusError:
        return True


def test_a_client_that_goes_far_beyond_its_limit_is_shut_out_from_submitting_and_still_reads_results(
    service: RunningService, pool: RunningPool
) -> None:
    limit(service, pool, bundles_per_principal=1)
    name = f"mallory{uuid4().hex}"
    with Client(service.url, service.add_user(name)) as client:
        grant = Grant.of_document(client.open_session(pool.endpoint_id))

        async def flood(_: Connection) -> None:
            async with Connection(grant.urls, grant.credentials, name="flood") as connection:
                where = f"task.{UUID(pool.endpoint_id).hex}.default.{grant.principal.replace(':', '=3A')}"
                for number in range(5_000):
                    await connection.publish(f"{where}.{uuid4().hex}.{number}", b"x")
                await connection.flush()

        # Perhaps in the middle of it, perhaps after it: the server closes the connection.
        with contextlib.suppress(BusError):
            service.bus(flood)

        eventually(lambda: service.bus(lambda _: is_shut_out(grant)), 10)
        eventually(lambda: not client.open_session(pool.endpoint_id)["queue_limit"]["may_submit"], 10)
        again = Grant.of_document(client.open_session(pool.endpoint_id))

        async def try_again(_: Connection) -> None:
            async with Connection(again.urls, again.credentials, name="again") as connection:
                where = f"task.{UUID(pool.endpoint_id).hex}.default.{again.principal.replace(':', '=3A')}"
                read = f"result.{UUID(pool.endpoint_id).hex}.{again.principal.replace(':', '=3A')}.{uuid4().hex}.x.0"
                assert await connection.read_last("RESULTS", read) is None
                await connection.store(f"{where}.{uuid4().hex}.1", b"x", timeout_s=1.0)

        with pytest.raises(BusError):
            service.bus(try_again)
