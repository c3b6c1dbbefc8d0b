"""What becomes of work when the function, the endpoint or the user that it belongs to is removed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from gates import wait_for
from running_pool import RunningPool, running_pool
from service import RunningService
from waiting import eventually

from headrace.bus.errors import FunctionUnusable
from headrace.bus.functions.code import FunctionCode, from_source
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import FunctionUse
from headrace.bus.tasks.task_views import find
from headrace.endpoint.agent import code_cache
from headrace.endpoint.agent.code_cache import CodeCache
from headrace.endpoint.errors import RegistrationRefused, ServiceAway
from headrace.sdk import Client, Executor, NotFound, RequestRefused, SubmissionRefused, Unauthorized, session

WITHIN_S = 20.0
TELL = """
def tell(x):
    print("told", x)
    return x
"""
ECHO = "def echo(x):\n    return x\n"


@pytest.fixture
def pool(service: RunningService, tmp_path: Path) -> Iterator[RunningPool]:
    """A pool that has not been started yet."""
    with running_pool(service, tmp_path / "pool", started=False, workers=1, name=uuid.uuid4().hex) as running:
        yield running


@pytest.fixture(scope="module")
def admin(service: RunningService) -> Iterator[Client]:
    with Client(service.url, service.token) as made:
        yield made


@pytest.fixture
def ada(service: RunningService) -> Iterator[Client]:
    with Client(service.url, service.add_user(f"ada{uuid.uuid4().hex[:8]}")) as made:
        yield made


@pytest.fixture
def quick_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of this process ask again sooner; how often they must be refused stays."""
    monkeypatch.setattr(session, "_RENEW_RETRY_S", 0.1)


def name_of(client: Client) -> str:
    return str(client.whoami()["principal"]).rpartition(":")[2]


def test_tasks_that_wait_for_a_deleted_function_fail(admin: Client, pool: RunningPool) -> None:
    function = admin.register_source_code(ECHO)
    task = admin.submit(pool.endpoint_id, function, [1])
    admin.delete_function(function)
    with pytest.raises(NotFound):
        admin.submit(pool.endpoint_id, function, [2])
    pool.start()
    ended = admin.get_task(task, wait_s=WITHIN_S)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "FunctionUnusable")
    assert "was deleted" in ended["error"]["message"]


class Answers:
    """A service as a pool sees it, in a state of the test's choice."""

    def __init__(self) -> None:
        self.answer: Any = from_source(ECHO)
        self.asked = 0

    def grant_pool(self) -> Any:
        raise NotImplementedError

    def fetch_code(self, grant: Any, use: FunctionUse, principal: str) -> FunctionCode:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        code: FunctionCode = self.answer
        return code


def test_a_pool_that_knows_a_function_asks_again_whether_it_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_ask_again(monkeypatch))


async def _ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    service, use = Answers(), FunctionUse(uuid.uuid4(), b"", 0)
    cache = CodeCache(service)
    grant: Any = None
    first = await cache.get(lambda: grant, use, "ada")
    assert await cache.get(lambda: grant, use, "ada") is first is cache.known(use.id)
    assert service.asked == 1
    monkeypatch.setattr(code_cache, "BELIEVED_S", 0.0)
    await asyncio.sleep(0)  # one turn of the loop
    assert cache.known(use.id) is None
    # Nobody can be asked: what was true a minute ago is good enough.
    service.answer = ServiceAway("away")
    assert await cache.get(lambda: grant, use, "ada") is first
    service.answer = RegistrationRefused("it was deleted", status=404)
    with pytest.raises(FunctionUnusable, match="deleted"):
        await cache.get(lambda: grant, use, "ada")
    service.answer = from_source(ECHO)
    assert await cache.get(lambda: grant, use, "ada") is service.answer


def _listed(client: Client, pool: RunningPool) -> set[str]:
    return {each["task_id"] for each in client.list_tasks(endpoint_id=pool.endpoint_id)}


@pytest.mark.usefixtures("quick_renewals")
def test_unfinished_tasks_of_a_deleted_endpoint_are_cancelled_for_everybody(
    service: RunningService, admin: Client, ada: Client, pool: RunningPool, tmp_path: Path
) -> None:
    service.http().patch(f"/api/v1/endpoints/{pool.endpoint_id}", json={"public": True})
    pool.start()
    with Executor(pool.endpoint_id, client=admin) as executor:
        assert executor.submit(pow, 2, 3).result(WITHIN_S) == 8
        runs = executor.submit(wait_for, str(tmp_path / "go"))
        eventually(runs.running, WITHIN_S, "it runs")
        waits = executor.submit(wait_for, str(tmp_path / "go"))
        others = [ada.submit(pool.endpoint_id, ada.register_source_code(ECHO), [n]) for n in range(3)]
        eventually(lambda: str(waits.task_id) in _listed(admin, pool), WITHIN_S, "it is stored")
        admin.delete_endpoint(pool.endpoint_id)

        for client, task in [(admin, runs.task_id), (admin, waits.task_id), *((ada, task) for task in others)]:
            assert task is not None
            ended = client.get_task(task, wait_s=WITHIN_S)
            assert ended["state"] == "cancelled"
            assert "the endpoint was deleted" in ended["error"]["message"]
        assert list(ada.list_tasks(state=("pending", "running"))) == []
        # Nothing is waited for in vain.
        for future in (runs, waits):
            assert isinstance(future.exception(WITHIN_S), NotFound)
        with pytest.raises(SubmissionRefused, match=pool.endpoint_id):
            executor.submit(pow, 2, 3).result(WITHIN_S)
    with pytest.raises(NotFound):
        ada.submit(pool.endpoint_id, ada.register_source_code(ECHO), [1])
    (tmp_path / "go").touch()


def test_what_had_ended_on_a_deleted_endpoint_can_be_read_with_what_it_printed(
    admin: Client, pool: RunningPool
) -> None:
    pool.start()
    task = admin.submit(pool.endpoint_id, admin.register_source_code(TELL), [7])
    assert admin.get_result(task, wait_s=WITHIN_S) == 7
    admin.delete_endpoint(pool.endpoint_id)

    assert admin.get_task(task)["state"] == "succeeded"
    assert admin.get_result(task) == 7
    assert admin.task_logs(task) == "told 7\n"


@pytest.mark.usefixtures("quick_renewals")
def test_what_waits_for_results_is_told_when_its_token_is_revoked(
    service: RunningService, admin: Client, pool: RunningPool
) -> None:
    token = admin.create_token(label="lost laptop")
    with Client(service.url, token["token"]) as lost, Executor(pool.endpoint_id, client=lost) as executor:
        waits = executor.submit(pow, 2, 3)
        eventually(lambda: list(admin.list_tasks(state="pending", endpoint_id=pool.endpoint_id)), WITHIN_S, "stored")
        admin.revoke_token(token["token_id"])

        assert isinstance(waits.exception(WITHIN_S), Unauthorized)
        with pytest.raises(SubmissionRefused, match="revoked"):
            executor.submit(pow, 2, 3).result(WITHIN_S)
    pool.start()
    with Executor(pool.endpoint_id, client=admin, task_group_id=executor.task_group_id) as heir:
        assert [future.result(WITHIN_S) for future in heir.reload_tasks()] == [8]


def test_with_a_user_end_tokens_endpoints_subscriptions_and_queued_tasks(
    service: RunningService, admin: Client, ada: Client, pool: RunningPool
) -> None:
    principal, name = ada.whoami()["principal"], name_of(ada)
    service.http().patch(f"/api/v1/endpoints/{pool.endpoint_id}", json={"public": True})
    function = ada.register_source_code(ECHO)
    task = ada.submit(pool.endpoint_id, function, [1])
    own = ada.register_endpoint("ada's own", public=True)
    others_task = admin.submit(own["endpoint_id"], admin.register_source_code(ECHO), [1])
    subscription = ada.create_subscription(
        {"filter": {"exact": {"type": "t"}}, "function_id": function, "endpoint_id": pool.endpoint_id}
    )
    admin.delete_user(name)

    with pytest.raises(Unauthorized):
        ada.whoami()
    keys = ServiceKeys.load(service.keys_dir).key_ring()

    async def as_ada(connection: Connection) -> Any:
        return await find(connection, keys, principal, UUID(task))

    view = service.bus(as_ada)
    assert view.state == "cancelled"
    ended = admin.get_task(others_task)
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "TaskCancelled")
    with pytest.raises(NotFound):
        admin.get_endpoint_metadata(own["endpoint_id"])
    assert name not in [user["name"] for user in admin.list_users()]

    # Nobody else gets what belongs to the name.
    with pytest.raises(RequestRefused, match="again"):
        admin.create_user(name)
    admin.create_user(name, again=True)
    with Client(service.url, admin.create_token(name)["token"]) as back:
        assert back.get_task(task)["state"] == "cancelled"
        assert [each["function_id"] for each in back.list_functions()] == [function]
        assert back.list_subscriptions() == []
        with pytest.raises(NotFound):
            back.get_subscription(subscription["subscription_id"])
        # And no work of today's ends because of what was removed before.
        again = back.submit(pool.endpoint_id, function, [2])
        pool.start()
        assert back.get_result(again, wait_s=WITHIN_S) == 2
    with pytest.raises(RequestRefused, match="already"):
        admin.create_user(name, again=True)
