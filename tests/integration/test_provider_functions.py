"""The provider that each registered function has: its body is the function's arguments."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_pool import RunningPool
from service import RunningService
from waiting import eventually

from headrace.schemas import validate
from headrace.sdk import Client, RequestRefused
from headrace.sdk.flows import Circumstances, Flow, Pace, Tokens, run
from headrace.sdk.profile import Profile

WORKERS = 1


def reduce(path: str, depth: int = 1, /, *scale: float, names: list[str] | None = None, **more: int) -> dict[str, Any]:
    """Reduces a run.

    Args:
        path: Where the run lies.
    """
    return {"path": path, "depth": depth, "scale": list(scale), "names": names, "more": more}


def plain(x: int) -> int:
    """Gives it back."""
    return x


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[Client]:
    """The administrator's."""
    with Client(service.url, service.token) as made:
        yield made


class Steps:
    """The steps of a flow that call one function."""

    def __init__(self, http: httpx.Client, function_id: str, query: str = "") -> None:
        self.http = http
        self.base = f"/actions/functions/{function_id}"
        self.query = query

    def run(self, body: dict[str, Any], request_id: str = "", **more: Any) -> httpx.Response:
        request = {"request_id": request_id or uuid.uuid4().hex, "body": body, **more}
        return self.http.post(f"{self.base}/run{self.query}", json=request)

    def done(self, body: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The status of the action when it has ended."""
        answer = self.run(body, **more)
        assert answer.status_code == 202, answer.text
        found = eventually(lambda: self.ended(answer.json()["action_id"]), 10, "the action ended")
        assert found is not None
        return found

    def ended(self, action_id: str) -> dict[str, Any] | None:
        status: dict[str, Any] = self.http.get(f"{self.base}/{action_id}/status").json()
        validate("action-status", status)
        return None if status["status"] == "ACTIVE" else status


def refusal(answer: httpx.Response, status: int = 422) -> str:
    """The description of an error."""
    assert answer.status_code == status, answer.text
    validate("action-error", answer.json())
    return str(answer.json()["description"])


def test_a_flows_body_is_the_functions_arguments(service: RunningService, pool: RunningPool, client: Client) -> None:
    steps = Steps(service.http(), client.register_function(reduce, default_endpoint=pool.endpoint_id))

    ended = steps.done({"path": "/run-7", "depth": 2, "scale": [0.5, 1], "names": ["a"], "extra": 3})

    assert ended["status"] == "SUCCEEDED", ended
    expected = {"path": "/run-7", "depth": 2, "scale": [0.5, 1], "names": ["a"], "more": {"extra": 3}}
    details = ended["details"]
    assert details["output"] == expected
    assert details["result"] == [expected]
    assert details["results"][0]["output"] == expected


def test_a_body_that_does_not_fit_is_refused_before_anything_runs(service: RunningService, client: Client) -> None:
    # No endpoint either: what is wrong with the arguments is said first.
    steps = Steps(service.http(), client.register_function(reduce))

    assert "'$.path' (category: 'required')" in refusal(steps.run({"depth": 2}))
    assert "'$.depth' (category: 'type')" in refusal(steps.run({"path": "p", "depth": "two"}))
    assert "'$.names[1]' (category: 'type')" in refusal(steps.run({"path": "p", "names": ["a", 1]}))
    assert "'$.extra' (category: 'type')" in refusal(steps.run({"path": "p", "extra": "x"}))
    assert "'$.$endpoint' (category: 'required')" in refusal(steps.run({"path": "p"}))
    assert steps.http.get(f"{steps.base}/actions").json() == []


def test_what_a_function_does_not_take_is_refused(service: RunningService, away: str, client: Client) -> None:
    steps = Steps(service.http(), client.register_function(plain, default_endpoint=away))

    assert "y" in refusal(steps.run({"x": 1, "y": 2}))
    assert "$endpont" in refusal(steps.run({"x": 1, "$endpont": away}))


def test_the_endpoint_is_in_the_body_or_in_the_address_or_the_functions(
    service: RunningService, pool: RunningPool, away: str, client: Client
) -> None:
    function = client.register_function(plain, default_endpoint=away)
    http = service.http()
    bound = Steps(http, function, f"?endpoint={pool.endpoint_id}")

    assert bound.done({"x": 1})["details"]["output"] == 1
    assert Steps(http, function).done({"x": 2, "$endpoint": pool.endpoint_id})["details"]["output"] == 2
    assert "another one" in refusal(bound.run({"x": 1, "$endpoint": away}))
    assert "not a UUID" in refusal(Steps(http, function, "?endpoint=here").run({"x": 1}), 400)
    waiting = Steps(http, function).run({"x": 3}).json()
    assert waiting["status"] == "ACTIVE"
    assert http.post(f"{bound.base}/{waiting['action_id']}/cancel").json()["details"]["code"] == "Cancelled"


def test_a_client_that_appends_to_an_address_with_an_endpoint_is_understood(
    service: RunningService, pool: RunningPool, client: Client
) -> None:
    function = client.register_function(plain)
    address = f"/actions/functions/{function}?endpoint={pool.endpoint_id}"

    answer = service.http().post(f"{address}/run", json={"request_id": "1", "body": {"x": 5}})

    assert answer.status_code == 202, answer.text
    assert answer.json()["details"].get("output", 5) == 5


def test_another_endpoint_in_the_address_is_another_request(service: RunningService, client: Client) -> None:
    function = client.register_function(plain)
    first, second = (service.add_endpoint(name)[0] for name in ("first", "second"))
    http, request_id = service.http(), uuid.uuid4().hex

    started = Steps(http, function, f"?endpoint={first}").run({"x": 1}, request_id)
    repeated = Steps(http, function, f"?endpoint={first}").run({"x": 1}, request_id)
    other = Steps(http, function, f"?endpoint={second}").run({"x": 1}, request_id)

    assert (started.status_code, repeated.status_code, other.status_code) == (202, 200, 409)


def test_introspection_shows_the_function(service: RunningService, away: str, client: Client) -> None:
    function = client.register_function(reduce, public=True)

    shown = service.http("").get(f"/actions/functions/{function}")

    assert shown.status_code == 200, shown.text
    document = shown.json()
    validate("provider-description", document)
    assert document["title"] == "reduce"
    assert document["description"].startswith("Reduces a run.")
    assert document["visible_to"] == ["public"]
    assert document["runnable_by"] == ["all_authenticated_users"]
    schema = document["input_schema"]
    assert schema["properties"]["path"] == {"type": "string", "description": "Where the run lies."}
    assert schema["required"] == ["path", "$endpoint"]
    bound = service.http("").get(f"/actions/functions/{function}", params={"endpoint": away}).json()["input_schema"]
    assert bound["required"] == ["path"]
    assert "$endpoint" not in bound["properties"]


def test_a_private_function_is_its_owners_alone(service: RunningService, away: str, client: Client) -> None:
    function = client.register_function(plain, default_endpoint=away)
    stranger = service.http(service.add_user(f"stranger-{uuid.uuid4().hex[:8]}"))
    address = f"/actions/functions/{function}"

    assert service.http("").get(address).status_code == 401
    assert stranger.get(address).status_code == 403
    assert stranger.post(f"{address}/run", json={"request_id": "1", "body": {"x": 1}}).status_code == 403
    shown = service.http().get(address).json()
    assert shown["visible_to"] == shown["runnable_by"] == ["urn:headrace:user:admin"]


def test_a_deleted_function_runs_no_more_and_its_actions_stay(
    service: RunningService, away: str, client: Client
) -> None:
    function = client.register_function(plain, default_endpoint=away)
    steps = Steps(service.http(), function)
    action = steps.run({"x": 1}, "kept").json()

    client.delete_function(function)

    assert refusal(steps.http.get(steps.base), 404)
    assert refusal(steps.run({"x": 1}), 404)
    assert steps.run({"x": 1}, "kept").status_code == 200
    assert steps.http.get(f"{steps.base}/{action['action_id']}/status").status_code == 200


def test_a_schema_that_was_given_counts(service: RunningService, away: str, client: Client) -> None:
    given = {"properties": {"x": {"type": "integer", "maximum": 3}}, "required": ["x"]}
    steps = Steps(service.http(), client.register_function(plain, input_schema=given, default_endpoint=away))

    assert "maximum" in refusal(steps.run({"x": 4}))
    assert steps.run({"x": 3}).status_code == 202
    assert client.get_function(steps.base.rpartition("/")[2])["input_schema"] == given


def test_a_check_that_takes_long_is_given_up_and_holds_up_nobody(
    service: RunningService, away: str, client: Client
) -> None:
    definitions: dict[str, Any] = {"d0": {"type": "integer"}}
    for n in range(1, 31):
        definitions[f"d{n}"] = {"allOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 2}
    given = {"properties": {"x": {"$ref": "#/$defs/d30"}, "y": {"$ref": "#/$defs/d9"}}, "$defs": definitions}
    steps = Steps(service.http(), client.register_function(plain, input_schema=given, default_endpoint=away))

    assert "too long" in refusal(steps.run({"x": 1}))
    assert "is not of type 'integer'" in refusal(steps.run({"y": "1"}))
    assert steps.run({"y": 1}).status_code == 202


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"type": "integer"}, "must be 'object'"),
        ({"properties": {"x": {"type": "integr"}}}, "integr"),
        ({"properties": {"$endpoint": {}}}, "begin with"),
        ({"properties": {"x": {"$ref": "http://localhost/x"}}}, "not in this schema"),
    ],
)
def test_a_schema_that_is_none_is_refused_at_registration(client: Client, given: Any, problem: str) -> None:
    with pytest.raises(RequestRefused, match=problem):
        client.register_function(plain, input_schema=given)


def test_a_default_endpoint_must_be_one_that_the_owner_may_use(client: Client) -> None:
    with pytest.raises(RequestRefused, match="no endpoint"):
        client.register_function(plain, default_endpoint=uuid.uuid4())


def test_a_value_that_is_too_large_for_a_flow_is_given_by_reference(
    service: RunningService, pool: RunningPool, client: Client
) -> None:
    function = client.register_source_code(
        "def f(n: int) -> str:\n    return 'x' * n\n", default_endpoint=pool.endpoint_id
    )

    details = Steps(service.http(), function).done({"n": 300_000})["details"]

    reference = details["output"]["result_reference"]
    assert reference["size"] == 300_002
    assert details["result"] == [details["output"]]
    assert len(json.dumps(details)) < 10_000


def test_a_function_without_a_schema_takes_what_it_is_given(service: RunningService, pool: RunningPool) -> None:
    function = service.add_function("def f(**given):\n    return given\n", default_endpoint=pool.endpoint_id)

    assert Steps(service.http(), function).done({"a": 1, "b": None})["details"]["output"] == {"a": 1, "b": None}


def test_source_is_read_for_its_schema(client: Client) -> None:
    function = client.register_source_code("def f(x: int, *, y: str = 'a'): ...\n")

    assert client.get_function(function)["input_schema"]["properties"]["y"] == {"type": "string", "default": "a"}
    assert client.get_function(function)["provider"] == f"/actions/functions/{function}"


# The flows of the how-tos, as they are printed

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def printed_flow(page: str, service: RunningService, function_id: str) -> dict[str, Any]:
    """The first whole flow of a page, at this service."""
    text = (HOW_TO / page).read_text(encoding="utf-8")
    printed = next(flow for flow in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "StartAt" in flow)
    there = printed.replace("https://headrace.example.org", service.url)
    document: dict[str, Any] = json.loads(re.sub(r"(?<=/actions/functions/)[0-9a-f-]{36}", function_id, there))
    return document


@pytest.fixture
def met(service: RunningService) -> Circumstances:
    return Circumstances(
        tokens=Tokens(profile=Profile(url=service.url, token=service.token)), pace=Pace(first_poll_s=0.02)
    )


def reduce_run(path: str, method: str = "fast", *, bins: int = 100) -> dict[str, Any]:
    """As in the how-tos."""
    return {"path": path, "method": method, "bins": bins}


def test_the_flow_of_a_provider_for_your_function_runs(
    service: RunningService, pool: RunningPool, client: Client, met: Circumstances, tmp_path: Path
) -> None:
    function_id = client.register_function(reduce_run, default_endpoint=pool.endpoint_id)
    flow = Flow.of(printed_flow("a-provider-for-your-function.md", service, function_id))

    done = run(flow, {"input": {"path": "/data/run-7"}}, log=tmp_path / "log", circumstances=met)

    assert done.status == "SUCCEEDED", done.details
    assert done.output["Reduced"]["details"]["output"] == {"path": "/data/run-7", "method": "fast", "bins": 50}


def test_the_flow_that_waits_for_an_event_runs(
    service: RunningService, pool: RunningPool, client: Client, met: Circumstances, tmp_path: Path
) -> None:
    function_id = client.register_function(reduce_run, default_endpoint=pool.endpoint_id)
    flow = Flow.of(printed_flow("wait-for-an-event-in-a-flow.md", service, function_id))
    http = service.http()

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, flow, {"input": {"run": "run-42"}}, log=tmp_path / "log", circumstances=met)
        eventually(lambda: http.get("/actions/events/wait/actions").json(), 10, "the flow waits")
        event = {"type": "org.example.run.complete", "source": "/beamline/7", "id": "1", "specversion": "1.0"}
        client.publish({**event, "subject": "run-41", "data": {"path": "/data/run-41"}})
        client.publish({**event, "id": "2", "subject": "run-42", "data": {"path": "/data/run-42"}})
        done = running.result(20)

    assert done.status == "SUCCEEDED", done.details
    assert done.output["details"]["output"]["path"] == "/data/run-42"
