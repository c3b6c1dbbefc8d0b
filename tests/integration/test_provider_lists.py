"""Lists of actions: by role and state, in pages, in order again after what went wrong."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from running_pool import RunningPool
from service import RunningService, running_service
from waiting import eventually, eventually_async

from headrace.bus.nats.connection import Connection
from headrace.bus.store.action_keys import new_action_id, old_request_key
from headrace.bus.store.actions import ActionIdRecord, ActionRecord, Actions
from headrace.bus.store.records import Records
from headrace.bus.store.streams import purge
from headrace.sdk import Client
from headrace.sdk.errors import NotFound

BASE = "/actions/compute/v3"


def run(http: httpx.Client, endpoint_id: str, function_id: str, **more: Any) -> dict[str, Any]:
    body = {"endpoint_id": endpoint_id, "tasks": [{"function_id": function_id, "args": [1]}]}
    answer = http.post(f"{BASE}/run", json={"request_id": uuid.uuid4().hex, "body": body, **more})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def listed(http: httpx.Client, **query: str) -> list[str]:
    answer = http.get(f"{BASE}/actions", params=query)
    assert answer.status_code == 200, answer.text
    return [action["action_id"] for action in answer.json()]


def pages(http: httpx.Client, **query: Any) -> list[list[str]]:
    found, address = [], str(httpx.URL(f"{BASE}/actions", params=query))
    while address:
        answer = http.get(address)
        assert answer.status_code == 200, answer.text
        found.append([action["action_id"] for action in answer.json()])
        address = answer.links.get("next", {}).get("url", "")
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), run_wait_s=0.02) as running:
        yield running


@pytest.fixture(scope="module")
def away_from_all(service: RunningService) -> str:
    return service.add_endpoint("away from all", public=True)[0]


@pytest.fixture(scope="module")
def public_function(service: RunningService) -> str:
    return service.add_function(public=True)


def test_a_list_has_the_actions_in_which_one_has_the_role(
    service: RunningService, away_from_all: str, public_function: str
) -> None:
    ada, bob = service.http(service.add_user("ada")), service.http(service.add_user("bob"))
    carol = service.http(service.add_user("carol", groups=("urn:headrace:group:lab",)))
    watched = run(ada, away_from_all, public_function, monitor_by=["urn:headrace:user:bob"])["action_id"]
    shared = run(
        ada,
        away_from_all,
        public_function,
        monitor_by=["urn:headrace:group:lab"],
        manage_by=["urn:headrace:user:bob", "urn:headrace:group:lab"],
    )["action_id"]
    own = run(bob, away_from_all, public_function)["action_id"]

    assert listed(ada) == [watched, shared]
    assert listed(ada, roles="monitor_by,manage_by") == []
    assert listed(bob) == [own]
    assert listed(bob, roles="monitor_by") == [watched]
    assert listed(bob, roles="manage_by") == [shared]
    assert listed(bob, roles="creator_id,Monitor_By,MANAGE_BY,unknown") == [own, watched, shared]
    # In two roles, and told of once.
    assert listed(carol, roles="monitor_by,manage_by") == [shared]
    assert listed(service.http(service.add_user("dora")), roles="creator_id,monitor_by,manage_by") == []


def test_an_action_moves_to_the_list_of_its_end_and_leaves_it_with_its_release(
    service: RunningService, away_from_all: str, public_function: str
) -> None:
    http = service.http(service.add_user("eve"))
    action = run(http, away_from_all, public_function)["action_id"]
    assert listed(http) == [action]
    assert listed(http, status="failed,succeeded,inactive") == []

    assert http.post(f"{BASE}/{action}/cancel").status_code == 200
    assert listed(http) == []
    assert eventually(lambda: listed(http, status="failed")) == [action]
    assert listed(http, status="active,failed") == [action]

    assert http.post(f"{BASE}/{action}/release").status_code == 200
    assert listed(http, status="active,inactive,succeeded,failed") == []


def test_an_action_that_succeeds_is_listed_so(service: RunningService, pool: RunningPool) -> None:
    http = service.http()
    action = run(http, pool.endpoint_id, service.add_function())["action_id"]
    eventually(lambda: http.get(f"{BASE}/{action}/status").json()["status"] == "SUCCEEDED")

    assert eventually(lambda: action in listed(http, status="SUCCEEDED"))
    assert action not in listed(http)


def test_pages_follow_each_other_and_miss_nothing(
    service: RunningService, away_from_all: str, public_function: str
) -> None:
    http = service.http(service.add_user("frida"))
    started = [run(http, away_from_all, public_function)["action_id"] for _ in range(9)]
    for action in started[:5]:
        assert http.post(f"{BASE}/{action}/cancel").status_code == 200
    eventually(lambda: len(listed(http, status="failed")) == 5)

    found = pages(http, limit=2, status="active,failed")

    assert [action for page in found for action in page] == started[5:] + started[:5]
    assert max(map(len, found)) == 2
    assert pages(http, limit=4) == [started[5:], []] or pages(http, limit=4) == [started[5:]]


def test_hundreds_of_actions_are_listed_once_each_page_by_page(service: RunningService) -> None:
    http = service.http(service.add_user("karl"))
    principal = "urn:headrace:user:karl"

    def record(number: int) -> ActionRecord:
        return ActionRecord(
            action_id=f"tg_{new_action_id(BASE, principal, str(number))}",
            provider=BASE,
            creator=principal,
            request_id=str(number),
            request_digest="",
            started_at=time.time(),
            # In two roles, and so in two lists.
            monitor_by=(principal,),
            status="FAILED" if number % 10 == 0 else "SUCCEEDED",
            details={"code": "TaskFailed", "description": "", "result": [number]},
            ended_at=time.time(),
        )

    async def store(connection: Connection) -> list[str]:
        actions, records = Actions(connection), [record(number) for number in range(600)]
        begun = await asyncio.gather(*(actions.start(each) for each in records))
        await asyncio.gather(*(actions.finish(each.record, each.record.value) for each in begun))
        return [each.action_id for each in records]

    stored = service.bus(store)
    found = pages(http, status="succeeded,failed", roles="creator_id,monitor_by", limit=100)

    assert max(map(len, found)) == 100
    together = [action for page in found for action in page]
    assert sorted(together) == sorted(stored)
    assert len(pages(http, status="failed")[0]) == 60


def test_a_client_goes_from_page_to_page(service: RunningService, away_from_all: str, public_function: str) -> None:
    token = service.add_user("ingrid")
    started = [run(service.http(token), away_from_all, public_function)["action_id"] for _ in range(5)]

    with Client(service.url, token) as client:
        found = client.list_actions(page_size=2)
        assert [action["action_id"] for action in found] == started
        assert list(client.list_actions(status=["failed", "succeeded"])) == []
        assert list(client.list_actions(public_function, status="active")) == []
        assert client.get_action(started[0])["status"] == "ACTIVE"
        with pytest.raises(NotFound, match="no action"):
            client.get_action(started[0], public_function)
        with pytest.raises(ValueError, match="no provider"):
            client.list_actions("?")


@pytest.mark.parametrize("query", [{"marker": "x"}, {"marker": "0011-7"}, {"limit": "0"}, {"limit": "many"}])
def test_what_is_no_page_is_refused(service: RunningService, query: dict[str, str]) -> None:
    answer = service.http().get(f"{BASE}/actions", params=query)

    assert answer.status_code == 422
    assert next(iter(query)) in answer.json()["description"]


def test_lists_are_in_order_again_after_what_a_crash_left(
    service: RunningService, away_from_all: str, public_function: str
) -> None:
    http = service.http(service.add_user("gerda"))
    going_on, ended = (run(http, away_from_all, public_function)["action_id"] for _ in range(2))
    assert http.post(f"{BASE}/{ended}/cancel").status_code == 200

    async def break_and_mend(connection: Connection) -> int:
        await purge(connection, "ACTION_LISTS", "listed.>")
        return await Actions(connection).mend_lists()

    assert service.bus(break_and_mend) >= 2
    assert listed(http) == [going_on]
    assert listed(http, status="failed") == [ended]


def test_an_action_of_an_earlier_release_is_found_repeated_listed_and_released(service: RunningService) -> None:
    http = service.http(service.add_user("hilda"))
    principal, request_id = "urn:headrace:user:hilda", "of long ago"
    record = ActionRecord(
        action_id=f"tg_{uuid.uuid4()}",
        provider=BASE,
        creator=principal,
        request_id=request_id,
        request_digest="another",
        started_at=time.time(),
        status="SUCCEEDED",
        details={"result": [1]},
        ended_at=time.time(),
    )

    async def store_and_mend(connection: Connection) -> None:
        key = old_request_key(BASE, principal, request_id)
        await Records(connection, "actions", ActionRecord).create(key, record)
        await Records(connection, "action_ids", ActionIdRecord).put(record.action_id, ActionIdRecord(key=key))
        await Actions(connection).mend_lists()

    async def start_again(connection: Connection) -> bool:
        actions = Actions(connection)
        await actions.ensure()
        return (await actions.start(record)).created

    service.bus(store_and_mend)

    assert not service.bus(start_again)
    assert http.get(f"{BASE}/{record.action_id}/status").json()["details"] == {"result": [1]}
    assert listed(http, status="succeeded") == [record.action_id]
    assert http.post(f"{BASE}/{record.action_id}/release").status_code == 200
    assert http.get(f"{BASE}/{record.action_id}/status").status_code == 404
    assert listed(http, status="succeeded") == []


def test_an_action_whose_end_is_written_while_it_is_released_is_released(service: RunningService) -> None:
    principal, request_id = "urn:headrace:user:admin", uuid.uuid4().hex
    record = ActionRecord(
        action_id=f"tg_{new_action_id(BASE, principal, request_id)}",
        provider=BASE,
        creator=principal,
        request_id=request_id,
        request_digest="",
        started_at=time.time(),
    )

    async def story(connection: Connection) -> None:
        actions = Actions(connection)
        writing = asyncio.create_task(actions.write_ends())
        await asyncio.sleep(0)  # it begins
        begun = (await actions.start(record)).record
        end = msgspec.structs.replace(record, status="SUCCEEDED", details={"result": [1]}, ended_at=time.time())
        shown = await actions.finish_soon(begun, end)
        assert shown is not None
        await eventually_async(lambda: actions._ends.over(begun) is begun, 10)  # it is written
        assert shown.revision == begun.revision  # as it was read before that

        await actions.release(shown)

        assert await actions.by_id(record.action_id) is None
        writing.cancel()
        await asyncio.wait({writing})

    service.bus(story)
