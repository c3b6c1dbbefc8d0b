"""The client against a real service, bus and pool, and against servers in trouble."""

from __future__ import annotations

import inspect
import math
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from running_pool import RunningPool
from scripted_http import BREAK, free_ports, scripted_server
from service import RunningService
from waiting import eventually

from headrace.bus.tasks.bundles import FunctionUse
from headrace.schemas import HeadraceError
from headrace.sdk import Executor, errors
from headrace.sdk.client import Client
from headrace.sdk.http import check_protocol

WORKERS = 1

SOURCE = """
def double(x, times=1):
    for _ in range(times):
        x = x * 2
    return x

def boom():
    "Fails."
    return 1 / 0
"""


@pytest.fixture(scope="module")
def ada(service: RunningService) -> Iterator[Client]:
    with Client(service.url, service.add_user("ada")) as made:
        yield made


@pytest.fixture
def double(client: Client) -> str:
    return client.register_source_code(SOURCE, "double")


# Functions


def test_a_function_is_stored_by_source_with_its_docstring_and_can_be_read_listed_and_deleted(client: Client) -> None:
    def area(radius: float) -> float:
        """The area of a circle."""
        return math.pi * radius**2

    function_id = client.register_function(area, metadata={"unit": "m2"})

    stored = client.get_function(function_id)
    assert stored["description"] == "The area of a circle."
    assert stored["metadata"] == {"unit": "m2"}
    assert "return math.pi * radius**2" in stored["source"]
    assert stored["pickled"]
    assert function_id in [each["function_id"] for each in client.list_functions()]
    client.delete_function(uuid.UUID(function_id))
    with pytest.raises(errors.NotFound, match=function_id):
        client.get_function(function_id)


def test_source_that_does_not_compile_is_refused_here_with_its_position(client: Client) -> None:
    with pytest.raises(errors.FunctionUnusable, match="line 2"):
        client.register_source_code("def f():\n  retrun 1\n", "f")


# Tasks


def test_a_call_with_json_arguments_gives_its_value(client: Client, pool: RunningPool, double: str) -> None:
    task_id = client.run(3, endpoint_id=pool.endpoint_id, function_id=double, times=3)

    assert client.get_result(task_id, wait_s=30) == 24
    assert client.get_task(task_id)["state"] == "succeeded"


def test_a_failed_task_is_a_plain_document_until_its_result_is_asked_for(client: Client, pool: RunningPool) -> None:
    boom = client.register_source_code(SOURCE, "boom")
    task_id = client.run(endpoint_id=pool.endpoint_id, function_id=boom)

    task = client.get_task(task_id, wait_s=30)

    assert task["state"] == "failed"
    assert task["error"]["type"] == "ZeroDivisionError"
    with pytest.raises(errors.TaskFailed, match="ZeroDivisionError: division by zero") as caught:
        client.get_result(task_id)
    assert "return 1 / 0" in caught.value.remote_traceback


def test_the_docstring_of_a_function_describes_it_however_it_is_registered(client: Client) -> None:
    def boom() -> None:
        "Fails."

    def described(function_id: str) -> object:
        return client.get_function(function_id)["description"]

    assert described(client.register_source_code(SOURCE, "boom")) == "Fails."
    assert described(client.register_source_code(SOURCE, "boom", "Other words")) == "Other words"
    assert described(client.register_source_code(SOURCE, "boom", "")) == ""
    assert described(client.register_source_code(SOURCE, "double")) == ""
    assert described(client.register_function(boom)) == "Fails."


def test_a_task_that_nobody_takes_is_pending_and_can_be_cancelled(service: RunningService, client: Client) -> None:
    endpoint_id, _ = service.add_endpoint("nobody home")
    function_id = client.register_source_code(SOURCE, "double")
    task_id = client.run(1, endpoint_id=endpoint_id, function_id=function_id)

    with pytest.raises(errors.TaskPending, match="pending") as caught:
        client.get_result(task_id, wait_s=0.3)
    assert (caught.value.task_id, caught.value.state) == (task_id, "pending")

    # Whoever waits longer sees the end.
    cancelling = threading.Timer(0.3, client.cancel, [task_id])
    cancelling.start()
    with pytest.raises(errors.TaskCancelled):
        client.get_result(task_id, wait_s=20)
    cancelling.join()
    assert client.cancel(task_id)["task_id"] == task_id
    assert client.cancel(task_id, force=True)["task_id"] == task_id


def test_a_value_that_only_an_executor_can_read_is_named(client: Client, pool: RunningPool) -> None:
    with Executor(pool.endpoint_id, client=client) as executor:
        future = executor.submit(complex, 1, 2)
        assert future.result(60) == 1 + 2j

    assert future.task_id is not None
    assert client.get_task(future.task_id)["state"] == "succeeded"
    with pytest.raises(errors.ResultNotSerialisable, match="reload_tasks"):
        client.get_result(future.task_id)


def test_a_group_has_its_tasks(client: Client, pool: RunningPool, double: str) -> None:
    task_id = client.run(3, endpoint_id=pool.endpoint_id, function_id=double)
    group = client.get_task(task_id, wait_s=30)["task_group_id"]

    tasks = client.get_task_group(group)["tasks"]

    assert [(task["task_id"], task["state"], task["endpoint_id"]) for task in tasks] == [
        (task_id, "succeeded", pool.endpoint_id)
    ]


def test_a_list_of_what_cannot_be_is_refused_before_it_is_read() -> None:
    with Client("http://127.0.0.1:9", "t") as client:
        with pytest.raises(ValueError, match="state is 'done', which is none of pending, running, succeeded, failed"):
            client.list_tasks(state=["failed", "done"])
        with pytest.raises(ValueError, match="state is ''"):
            client.list_tasks(state=[])
        with pytest.raises(ValueError, match="endpoint_id"):
            client.list_tasks(endpoint_id="lab")


@pytest.mark.parametrize("argument", [{1, 2}, object(), float("nan"), b"bytes"])
def test_an_argument_that_json_cannot_carry_is_refused_before_anything_is_sent(argument: Any) -> None:
    with Client("http://127.0.0.1:9", "t") as client, pytest.raises(errors.ArgumentNotSerialisable, match="Executor"):
        client.run(argument, endpoint_id=uuid.uuid4(), function_id=uuid.uuid4())


# Endpoints


def test_endpoints_are_registered_listed_and_deleted(client: Client) -> None:
    made = client.register_endpoint("spare", public=True)
    endpoint_id = made["endpoint_id"]

    assert made["endpoint_token"].startswith("hr_")
    assert client.get_endpoint_metadata(endpoint_id)["public"] is True
    assert client.get_endpoint_status(endpoint_id)["status"] == "offline"
    assert endpoint_id in [each["endpoint_id"] for each in client.get_endpoints()]
    client.delete_endpoint(endpoint_id)
    with pytest.raises(errors.NotFound):
        client.get_endpoint_metadata(endpoint_id)


def test_an_endpoint_that_runs_is_online(service: RunningService, client: Client) -> None:
    made = client.register_endpoint("with presence")
    presence = {"host": "h", "python_version": "3.12", "headrace_version": "1", "pools": []}
    http = service.http(made["endpoint_token"])
    assert http.put(f"/api/v1/endpoints/{made['endpoint_id']}/presence", json=presence).is_success

    assert client.get_endpoint_status(made["endpoint_id"])["status"] == "online"


# What the Executor needs


def test_a_session_and_a_grant_are_what_the_executor_expects(client: Client, pool: RunningPool, double: str) -> None:
    session = client.open_session(pool.endpoint_id)
    use = client.grant_function(pool.endpoint_id, double)

    assert session["endpoint_id"] == pool.endpoint_id
    assert session["nats_urls"]
    assert isinstance(use, FunctionUse)
    assert (use.id, len(use.grant)) == (uuid.UUID(double), 32)
    assert use.grant_expires > time.time()


def test_without_exactly_one_endpoint_the_refusal_names_them(client: Client, pool: RunningPool) -> None:
    client.register_endpoint("one more")

    with pytest.raises(errors.RequestRefused, match=pool.endpoint_id) as caught:
        client.open_session()
    assert caught.value.status == 409


# Events


def test_the_same_event_is_stored_once(client: Client) -> None:
    event = {"type": "test.made", "source": "/test", "id": uuid.uuid4().hex, "data": {"a": [1, None]}}

    first, second = client.publish(event), client.publish(event)

    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["sequence"] == second["sequence"]
    assert client.publish({"type": "test.made", "source": "/test"})["duplicate"] is False


def test_an_event_that_is_none_is_refused_with_its_place(client: Client) -> None:
    with pytest.raises(errors.RequestRefused) as caught:
        client.publish({"type": "", "source": "/test"})

    assert caught.value.status == 422
    assert [error.pointer for error in caught.value.errors] == ["/type"]
    assert "/type: " in str(caught.value)


def test_subscriptions_are_made_read_listed_and_deleted(client: Client, pool: RunningPool, double: str) -> None:
    made = client.create_subscription(
        {
            "name": "doubles",
            "filter": {"exact": {"type": "test.double"}},
            "function_id": double,
            "endpoint_id": pool.endpoint_id,
            "input": {"args": ["{{ event.data.x }}"]},
        }
    )
    subscription_id = made["subscription_id"]

    assert client.get_subscription(subscription_id)["name"] == "doubles"
    assert subscription_id in [each["subscription_id"] for each in client.list_subscriptions()]
    assert client.list_dead_letters(subscription_id, limit=5) == []
    client.delete_subscription(subscription_id)
    with pytest.raises(errors.NotFound):
        client.get_subscription(subscription_id)


# Users, tokens, rights


def test_an_administrator_adds_users_and_makes_tokens_for_them(client: Client, service: RunningService) -> None:
    user = client.create_user("grace", groups=["urn:headrace:group:lab"])
    token = client.create_token("grace", label="laptop", expires_in_s=60)

    with Client(service.url, token["token"]) as grace:
        who = grace.whoami()
        assert (who["principal"], who["groups"]) == (user["principal"], ["urn:headrace:group:lab"])
        assert [each["label"] for each in grace.list_tokens()] == ["laptop"]
    assert "grace" in [each["name"] for each in client.list_users()]
    assert token["token_id"] in [each["token_id"] for each in client.list_tokens("*")]
    client.delete_user("grace")
    assert "grace" not in [each["name"] for each in client.list_users()]


def test_a_revoked_token_is_refused_with_what_to_do(client: Client, service: RunningService) -> None:
    token = client.create_token(label="short")
    with Client(service.url, token["token"]) as short:
        short.whoami()
        client.revoke_token(token["token_id"])

        def refused() -> errors.Unauthorized | None:
            try:
                short.whoami()
            except errors.Unauthorized as error:
                return error
            return None

        error = eventually(refused)
        assert error is not None
        assert f"headrace login --url {service.url}" in str(error)


def test_a_wrong_token_is_unauthorized_and_is_not_shown(service: RunningService) -> None:
    with Client(service.url, "hr_wrong_token") as client, pytest.raises(errors.Unauthorized) as caught:
        client.get_endpoints()

    assert caught.value.status == 401
    assert "hr_wrong_token" not in str(caught.value)


def test_strangers_get_not_found_and_users_are_for_administrators(ada: Client, double: str) -> None:
    with pytest.raises(errors.NotFound):
        ada.get_function(double)
    with pytest.raises(errors.Forbidden):
        ada.list_users()


@pytest.mark.parametrize("call", ["get_function", "get_task", "delete_endpoint", "cancel", "delete_subscription"])
def test_what_is_no_uuid_is_refused_before_anything_is_sent(call: str) -> None:
    with (
        Client("http://127.0.0.1:9", "t") as client,
        pytest.raises(ValueError, match=r"_id must be a UUID, not '\.\./users'"),
    ):
        getattr(client, call)("../users")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?b"])
def test_a_name_cannot_lead_to_another_path(name: str) -> None:
    with Client("http://127.0.0.1:9", "t") as client, pytest.raises(ValueError, match="which cannot be one"):
        client.delete_user(name)


@pytest.mark.parametrize(
    ("call", "given", "error"),
    [
        ("get_bus", None, "bus must be a text, not NoneType"),
        ("delete_bus", "", "bus is empty"),
        ("get_bus", "half \ud800", "bus is 'half .*', which holds half of a character"),
        ("delete_user", 5, "name must be a text, not int"),
        ("get_action", {}, "action_id must be a text, not dict"),
        ("get_event", "x", "sequence must be a whole number, not 'x'"),
        ("register_source_code", None, "source must be a text, not NoneType"),
        ("create_subscription", "x", "subscription must be a dict, not str"),
        ("create_hook", {"name": float("nan")}, "JSON cannot carry this: "),
        ("publish", "x", "an event must be a dict, not str"),
        ("publish", {"data": "half \ud800"}, "JSON cannot carry this: "),
    ],
)
def test_what_has_a_wrong_type_is_named_before_anything_is_sent(call: str, given: object, error: str) -> None:
    with (
        Client("http://127.0.0.1:9", "t") as client,
        pytest.raises((TypeError, ValueError, errors.ArgumentNotSerialisable), match=error),
    ):
        getattr(client, call)(given)


# Versions


def test_the_service_names_its_version(client: Client) -> None:
    assert client.version()["protocol"] == 1


def test_a_newer_sdk_is_told_what_to_install(
    client: Client, pool: RunningPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.sdk.client.PROTOCOL", 2)

    with pytest.raises(errors.ProtocolMismatch, match=r"protocol 2\) is newer than this service.*pip install"):
        client.open_session(pool.endpoint_id)


@pytest.mark.parametrize(("theirs", "relation"), [(0, "newer"), (2, "older")])
def test_both_versions_are_named_when_the_service_speaks_another_protocol(theirs: int, relation: str) -> None:
    with pytest.raises(
        errors.ProtocolMismatch, match=rf"is {relation} than the service at .*pip install headrace==9\.9"
    ):
        check_protocol({"protocol": theirs, "service_version": "9.9"}, "http://a")


# In trouble


def test_making_a_client_reads_and_sends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HEADRACE_URL", "HEADRACE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))

    with Client() as client, pytest.raises(errors.NotConfigured, match="headrace up"):
        client.get_endpoints()


@pytest.mark.timeout(30)
def test_a_service_that_is_not_there_is_named_within_seconds() -> None:
    (port,) = free_ports()

    with (
        Client(f"http://127.0.0.1:{port}", "t") as client,
        pytest.raises(errors.ServiceUnreachable, match=rf"127\.0\.0\.1:{port} cannot be reached.*headrace up"),
    ):
        client.get_endpoints()


@pytest.mark.timeout(30)
def test_who_has_little_time_is_told_in_little_time() -> None:
    (port,) = free_ports()

    with (
        Client(f"http://127.0.0.1:{port}", "t", timeout_s=0.1) as client,
        pytest.raises(errors.ServiceUnreachable, match="cannot be reached"),
    ):
        client.get_endpoints()


def test_a_service_that_does_not_answer_is_given_up_when_the_time_is_over() -> None:
    release = threading.Event()

    class Slow(dict[str, Any]):
        """Its items come late: the server that encodes it does not answer before the test is over."""

        def items(self) -> Any:
            release.wait(5)
            return super().items()

    with scripted_server((200, Slow(a=1))) as server, Client(server.url, "t", timeout_s=0.2) as client:
        with pytest.raises(errors.ServiceUnreachable, match="did not answer GET /api/v1/whoami in time"):
            client.whoami()
        release.set()
        assert server.asked == ["GET /api/v1/whoami"]


def test_what_only_reads_is_tried_again_when_the_service_is_busy_or_the_connection_breaks() -> None:
    busy = {"code": "Unavailable", "detail": "starting", "errors": []}
    with (
        scripted_server((503, busy), (BREAK, None), (200, {"endpoints": []})) as server,
        Client(server.url, "t") as client,
    ):
        assert client.get_endpoints() == []
        assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ((503, {"code": "Unavailable", "detail": "starting"}), errors.ServiceUnavailable),
        ((BREAK, None), errors.ServiceUnreachable),
    ],
)
def test_what_would_happen_twice_is_sent_once(step: tuple[int, Any], kind: type[errors.ClientError]) -> None:
    with scripted_server(step) as server, Client(server.url, "t") as client:
        with pytest.raises(kind):
            client.run(1, endpoint_id=uuid.uuid4(), function_id=uuid.uuid4())
        assert len(server.asked) == 1


def test_a_publish_that_broke_is_sent_again_with_the_same_id() -> None:
    with (
        scripted_server((BREAK, None), (202, {"id": "1", "duplicate": True})) as server,
        Client(server.url, "t") as client,
    ):
        assert client.publish({"type": "a", "source": "/b"})["duplicate"] is True
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        ((200, b"<html>hello</html>"), errors.ClientError, "is this the URL of a Headrace service"),
        ((404, b"<html>no</html>"), errors.NotFound, "Not Found"),
        ((500, {"code": "InternalError", "detail": "incident 5"}), errors.ServiceUnavailable, "incident 5"),
        ((418, {"unexpected": 1}), errors.RequestRefused, "Teapot"),
        ((413, {"code": "PayloadTooLarge", "detail": "limit 5 MB"}), errors.RequestRefused, "limit 5 MB"),
        (
            (422, {"code": "X", "detail": "d", "errors": [5, {"pointer": "/a", "problem": "p"}]}),
            errors.RequestRefused,
            "p",
        ),
        ((400, {"code": "X", "detail": "d", "errors": 7}), errors.RequestRefused, "d"),
    ],
)
def test_whatever_answers_becomes_a_clear_error(step: tuple[int, Any], kind: type[Exception], words: str) -> None:
    with scripted_server(step) as server, Client(server.url, "t") as client, pytest.raises(kind, match=words):
        client.whoami()


def test_a_closed_client_says_so_and_its_dependants_are_told_once(service: RunningService) -> None:
    client, told = Client(service.url, service.token), []
    client.on_close.append(lambda: told.append(1))
    client.version()

    client.close()
    client.close()

    assert (client.closed, told) == (True, [1])
    with pytest.raises(errors.ClientError, match="closed"):
        client.version()


def test_one_client_serves_many_threads(client: Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.whoami()["principal"], range(80)))

    assert set(answers) == {"urn:headrace:user:admin"}


# Errors


def test_every_error_is_exported_once_stands_in_the_tree_and_has_one_root() -> None:
    classes = {
        name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)
    }

    assert set(classes) == set(errors.__all__)
    assert len(errors.__all__) == len(set(errors.__all__))
    for name, kind in classes.items():
        assert issubclass(kind, HeadraceError)
        assert errors.__doc__ is not None
        assert name in errors.__doc__
