"""The action provider as clients of Flows see it: routes, documents, errors, who may do what. No pool is needed."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from service import RunningService, running_service
from waiting import eventually

from headrace.schemas import validate

BASE = "/actions/compute/v3"


class Flows:
    """A client of the provider with one token."""

    def __init__(self, http: httpx.Client, endpoint_id: str, function_id: str) -> None:
        self.http = http
        self.body: dict[str, Any] = {
            "endpoint_id": endpoint_id,
            "tasks": [{"function_id": function_id, "args": [1]}, {"function_id": function_id, "kwargs": {"x": 2}}],
        }

    def run(self, request_id: object = None, **more: Any) -> httpx.Response:
        request = {"request_id": request_id or uuid.uuid4().hex, "body": self.body, **more}
        return self.http.post(f"{BASE}/run", json=request)

    def started(self, **more: Any) -> dict[str, Any]:
        return checked(self.run(**more), 202)


def checked(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    """The status document of an answer; it satisfies the published description."""
    assert response.status_code == status, response.text
    document: dict[str, Any] = response.json()
    validate("action-status", document)
    return document


def refused(response: httpx.Response, status: int, code: str) -> str:
    """The description of an error; it has the one shape of providers."""
    assert response.status_code == status, response.text
    document = response.json()
    validate("action-error", document)
    assert document["code"] == code
    return str(document["description"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), run_wait_s=0.0) as running:
        yield running


@pytest.fixture(scope="module")
def endpoint_id(service: RunningService) -> str:
    """An endpoint that is away: actions on it stay active."""
    return service.add_endpoint("away", public=True)[0]


@pytest.fixture(scope="module")
def function_id(service: RunningService) -> str:
    return service.add_function(public=True)


@pytest.fixture
def flows(service: RunningService, endpoint_id: str, function_id: str) -> Flows:
    return Flows(service.http(), endpoint_id, function_id)


@pytest.mark.parametrize("path", ["", "/", "//"])
def test_introspection_is_public_and_needs_no_redirect(service: RunningService, path: str) -> None:
    response = service.http("").get(BASE + path)

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    description = response.json()
    validate("provider-description", description)
    assert description["types"] == ["Action"]
    assert "endpoint_id" in description["input_schema"]["properties"]


def test_introspection_may_be_kept_and_asked_for_again(service: RunningService) -> None:
    http = service.http("")
    first = http.get(BASE)
    tag = first.headers["etag"]
    assert "max-age" in first.headers["cache-control"]
    assert "vary" not in first.headers

    for named in (tag, f"W/{tag}", f'"another", {tag}', "*"):
        again = http.get(BASE, headers={"If-None-Match": named})
        assert again.status_code == 304
        assert (again.content, again.headers["etag"]) == (b"", tag)
        assert again.headers["access-control-allow-origin"] == "*"
    assert http.get(BASE, headers={"If-None-Match": '"another"'}).json() == first.json()


def test_introspection_that_is_not_for_everybody_is_kept_by_nobody_else(service: RunningService) -> None:
    answer = service.http().get(f"/actions/functions/{service.add_function()}")

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["vary"] == "Authorization"
    named = {"If-None-Match": answer.headers["etag"]}
    assert service.http().get(answer.url.path, headers=named).status_code == 304
    assert service.http("").get(answer.url.path, headers=named).status_code in (401, 403, 404)


def test_introspection_does_not_mind_a_bad_token(service: RunningService) -> None:
    assert service.http("nobody-knows-this").get(BASE).status_code == 200


def test_a_browser_may_ask_first(service: RunningService) -> None:
    response = service.http("").options(BASE)

    assert response.status_code == 204
    assert response.headers["access-control-allow-methods"] == "GET, OPTIONS"
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["access-control-expose-headers"] == "*"


@pytest.mark.parametrize("run", ["/run", "//run", "/run/", "/actions", "/actions/"])
@pytest.mark.parametrize(
    ("status", "cancel", "release"),
    [
        ("/{id}/status", "/{id}/cancel", ("POST", "/{id}/release")),
        ("/actions/{id}", "/actions/{id}/cancel", ("DELETE", "/actions/{id}")),
        ("//{id}//status/", "/{id}/cancel/", ("POST", "/actions/{id}/release")),
    ],
)
def test_both_styles_of_routes_work(flows: Flows, run: str, status: str, cancel: str, release: tuple[str, str]) -> None:
    http = flows.http
    action = checked(http.post(BASE + run, json={"request_id": uuid.uuid4().hex, "body": flows.body}), 202)
    here = action["action_id"]

    assert checked(http.get(BASE + status.format(id=here)))["status"] == "ACTIVE"
    assert checked(http.post(BASE + cancel.format(id=here)))["status"] == "FAILED"
    assert checked(http.request(release[0], BASE + release[1].format(id=here)))["action_id"] == here
    refused(http.get(BASE + status.format(id=here)), 404, "ActionNotFound")


def test_an_active_action_says_how_far_it_is(flows: Flows) -> None:
    action = flows.started(label="a label")

    assert action["action_id"] == f"tg_{action['details']['task_group_id']}"
    assert action["creator_id"] == "urn:headrace:user:admin"
    assert action["label"] == "a label"
    assert action["release_after"] == "P30D"
    assert action["display_status"] == "0 of 2 tasks done"
    assert action["details"]["states"] == {"pending": 2}
    assert [task["state"] for task in action["details"]["tasks"]] == ["pending", "pending"]


def test_the_tasks_join_the_group_that_the_caller_names(flows: Flows) -> None:
    group = str(uuid.uuid4())
    flows.body["task_group_id"] = group

    first, second = flows.started(), flows.started()

    assert first["action_id"] == f"tg_{group}"
    assert second["action_id"] not in ("", first["action_id"])
    assert second["details"]["task_group_id"] == group


def test_the_same_request_starts_one_action(flows: Flows) -> None:
    first = flows.run("same", label="l", monitor_by=["urn:headrace:user:a", "urn:headrace:user:b"])
    again = flows.run("same", label="l", monitor_by=["urn:headrace:user:b", "urn:headrace:user:a"], tags=["new"])

    assert checked(first, 202)["action_id"] == checked(again, 200)["action_id"]


@pytest.mark.parametrize("change", [{"label": "other"}, {"manage_by": ["urn:headrace:user:x"]}, {"release_after": 60}])
def test_another_request_under_the_same_id_is_a_conflict(flows: Flows, change: dict[str, Any]) -> None:
    request_id = uuid.uuid4().hex
    flows.started(request_id=request_id)

    assert request_id in refused(flows.run(request_id, **change), 409, "ActionConflict")


def test_another_body_under_the_same_id_is_a_conflict(flows: Flows) -> None:
    flows.started(request_id="body")
    flows.body["tasks"] = flows.body["tasks"][:1]

    refused(flows.run("body"), 409, "ActionConflict")


def test_request_ids_of_different_callers_do_not_meet(
    service: RunningService, flows: Flows, endpoint_id: str, function_id: str
) -> None:
    other = Flows(service.http(service.add_user("other")), endpoint_id, function_id)

    assert flows.started(request_id="mine")["action_id"] != other.started(request_id="mine")["action_id"]


def test_fifty_equal_requests_at_once_start_one_action(flows: Flows) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: flows.run("at once"), range(50)))

    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [202]
    assert len({checked(answer, answer.status_code)["action_id"] for answer in answers}) == 1


def test_of_different_requests_at_once_one_wins(flows: Flows) -> None:
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda n: flows.run("race", label=f"label {n}"), range(10)))

    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 9


def test_release_forgets_the_action_and_its_request(flows: Flows) -> None:
    for seen in range(4):
        action = flows.started(request_id=0)  # the toolkit's own tests send a number
        here = action["action_id"]
        checked(flows.http.post(f"{BASE}/{here}/cancel"))
        checked(flows.http.post(f"{BASE}/{here}/release"))
        refused(flows.http.post(f"{BASE}/{here}/release"), 404, "ActionNotFound")
        assert seen < 4


def test_an_active_action_cannot_be_released(flows: Flows) -> None:
    here = flows.started()["action_id"]

    assert "cancel it first" in refused(flows.http.post(f"{BASE}/{here}/release"), 409, "ActionConflict")


def test_cancelling_ends_the_action_at_once_and_for_good(flows: Flows) -> None:
    here = flows.started()["action_id"]

    cancelled = checked(flows.http.post(f"{BASE}/{here}/cancel"))
    again = checked(flows.http.post(f"{BASE}/{here}/cancel"))

    assert cancelled["status"] == "FAILED"
    assert cancelled["details"]["code"] == "Cancelled"
    assert cancelled["display_status"] == "Cancelled"
    assert cancelled == again == checked(flows.http.get(f"{BASE}/{here}/status"))


@pytest.mark.parametrize(
    "more",
    [
        {"label": None, "monitor_by": None, "manage_by": None, "deadline": None, "release_after": None},
        {"tags": ["t"], "something": {"else": 1}},
        {"release_after": "P1DT12H"},
        {"release_after": 3600},
        {"release_after": 0.5},
        {"release_after": "3600"},
        {"deadline": "2999-01-01T00:00:00Z"},
        {"deadline": "2999-01-01T00:00:00+02:00"},
        {"deadline": "2999-01-01 00:00:00"},
        {"deadline": 32472144000},
        {"request_id": 17},
        {"request_id": "with spaces, /, * and " + "x" * 900},
        {"label": "x" * 64},
        {"monitor_by": []},
        {"monitor_by": ["urn:headrace:user:a", "urn:headrace:user:a"]},
        {"allowed_clients": ["public"]},
        {"monitor_by": ["urn:globus:auth:identity:6A0D7b0e-1111-4222-8333-444455556666"]},
        {"manage_by": ["urn:globus:groups:id:6a0d7b0e-1111-4222-8333-444455556666"]},
    ],
)
def test_what_clients_send_is_taken_as_they_send_it(flows: Flows, more: dict[str, Any]) -> None:
    flows.started(**more)


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"not JSON", b'{"reason": "tired"}'])
@pytest.mark.parametrize("verb", ["resume", "cancel", "release"])
def test_what_is_sent_along_with_an_operation_does_not_matter(flows: Flows, verb: str, content: bytes) -> None:
    here = flows.started()["action_id"]
    if verb == "release":
        flows.http.post(f"{BASE}/{here}/cancel")

    checked(flows.http.post(f"{BASE}/{here}/{verb}", content=content, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize(("path", "status"), [("", 200), ("/", 200), ("/nothing/here", 404), ("/run", 405)])
def test_the_head_alone_can_be_asked_for(service: RunningService, path: str, status: int) -> None:
    response = service.http("").head(BASE + path)

    assert response.status_code == status
    assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path", ["/nothing", "/nothing/here", "/run/more/of/it", "/actions/a/b/c", "/%00", "/a/statuses"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
def test_an_address_that_is_not_there_is_named(flows: Flows, method: str, path: str) -> None:
    refused(flows.http.request(method, BASE + path), 404, "ActionNotFound")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "", "GET, OPTIONS"),
        ("GET", "/run", "POST"),
        ("PUT", "/actions", "GET, POST"),
        ("POST", "/actions/some", "DELETE, GET"),
        ("GET", "/some/cancel", "POST"),
        ("POST", "/some/log", "GET"),
    ],
)
def test_another_method_is_told_which_ones_there_are(flows: Flows, method: str, path: str, allowed: str) -> None:
    response = flows.http.request(method, BASE + path)

    refused(response, 405, "BadActionRequest")
    assert response.headers["allow"] == allowed


def test_seconds_come_back_as_a_duration(flows: Flows) -> None:
    assert flows.started(release_after=3600)["release_after"] == "PT3600S"
    assert flows.started(release_after=86_400)["release_after"] == "P1D"


def test_nulls_and_defaults_inside_the_body_are_taken(flows: Flows) -> None:
    flows.body.update(user_endpoint_config={}, resource_specification={}, create_queue=False, user_runtime={"a": 1})
    flows.body["tasks"][0]["kwargs"] = None

    flows.started()


def test_the_content_type_does_not_matter(flows: Flows) -> None:
    request = json.dumps({"request_id": uuid.uuid4().hex, "body": flows.body})

    checked(flows.http.post(f"{BASE}/run", content=request, headers={"Content-Type": "text/plain"}), 202)


@pytest.mark.parametrize(
    ("content", "status", "code", "says"),
    [
        (b"{", 400, "BadActionRequest", "not JSON"),
        (b"[]", 422, "RequestValidationError", "Field '__root__'"),
        (b"", 422, "RequestValidationError", "Field '__root__'"),
        (b'{"body": {}}', 422, "RequestValidationError", "Field 'request_id': field required"),
        (b'{"request_id": "r"}', 422, "RequestValidationError", "Field 'body': field required"),
        (b'{"request_id": "r", "body": []}', 422, "RequestValidationError", "Field 'body': [] is not of type 'object'"),
        (b'{"request_id": "r", "body": {}, "label": ""}', 422, "RequestValidationError", "Field 'label'"),
        (b'{"request_id": "r", "body": {}, "monitor_by": "me"}', 422, "RequestValidationError", "Field 'monitor_by'"),
        (
            b'{"request_id": "r", "body": {}, "manage_by": ["public"]}',
            422,
            "RequestValidationError",
            "Field 'manage_by[0]'",
        ),
        (
            b'{"request_id": "r", "body": {}, "release_after": "1 day"}',
            422,
            "RequestValidationError",
            "Field 'release_after'",
        ),
        (b'{"request_id": "r", "body": {}, "deadline": "soon"}', 422, "RequestValidationError", "Field 'deadline'"),
        (
            b'{"request_id": "r", "body": {}, "deadline": "2001-01-01T00:00:00Z"}',
            422,
            "RequestValidationError",
            "has passed",
        ),
    ],
)
def test_a_bad_request_is_named(service: RunningService, content: bytes, status: int, code: str, says: str) -> None:
    assert says in refused(service.http().post(f"{BASE}/run", content=content), status, code)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"endpoint_id": 5}, "Field '$.endpoint_id' (category: 'type'): 5 is not of type 'string'"),
        ({"endpoint_id": "here"}, "Field '$.endpoint_id' (category: 'format')"),
        ({"tasks": []}, "Field '$.tasks' (category: 'minItems')"),
        ({"tasks": [{}]}, "Field '$.tasks[0].function_id' (category: 'required')"),
        ({"tasks": [{"function_id": str(uuid.uuid4()), "args": 3}]}, "Field '$.tasks[0].args' (category: 'type')"),
        ({"extra": 1}, "Field '$' (category: 'additionalProperties')"),
    ],
)
def test_a_bad_body_is_named_with_the_place(flows: Flows, change: dict[str, Any], says: str) -> None:
    flows.body.update(change)

    assert says in refused(flows.run(), 422, "RequestValidationError")


def test_an_unknown_endpoint_or_function_starts_no_action(flows: Flows) -> None:
    unknown = str(uuid.uuid4())
    body = dict(flows.body)

    flows.body = {**body, "endpoint_id": unknown}
    assert f"no endpoint {unknown}" in refused(flows.run("unknown"), 400, "BadActionRequest")
    flows.body = {**body, "tasks": [{"function_id": unknown}]}
    assert f"no function {unknown}" in refused(flows.run("unknown"), 400, "BadActionRequest")
    flows.body = body
    flows.started(request_id="unknown")


def test_a_function_that_the_endpoint_does_not_allow_starts_no_action(
    service: RunningService, function_id: str
) -> None:
    picky = service.add_endpoint("picky", allowed_functions=[str(uuid.uuid4())])[0]

    description = refused(Flows(service.http(), picky, function_id).run(), 403, "UnauthorizedRequest")
    assert "allow list" in description


def test_a_private_endpoint_is_not_there_for_strangers(service: RunningService, function_id: str) -> None:
    private = service.add_endpoint("private")[0]
    stranger = service.http(service.add_user("stranger"))

    refused(Flows(stranger, private, function_id).run(), 400, "BadActionRequest")


@pytest.mark.parametrize("token", ["", "a-token-that-nobody-knows"])
def test_nothing_but_introspection_works_without_a_good_token(
    service: RunningService, flows: Flows, token: str
) -> None:
    here = flows.started()["action_id"]
    nobody = service.http(token)

    refused(nobody.post(f"{BASE}/run", json={}), 401, "UnauthorizedRequest")
    refused(nobody.get(f"{BASE}/{here}/status"), 401, "UnauthorizedRequest")
    refused(nobody.post(f"{BASE}/{here}/cancel"), 401, "UnauthorizedRequest")
    refused(nobody.delete(f"{BASE}/actions/{here}"), 401, "UnauthorizedRequest")


def test_an_endpoints_token_runs_no_actions(service: RunningService, flows: Flows) -> None:
    token = service.add_endpoint("robot")[1]

    refused(service.http(token).post(f"{BASE}/run", json={}), 403, "UnauthorizedRequest")


def test_monitors_see_and_managers_manage_and_strangers_neither(service: RunningService, flows: Flows) -> None:
    def user(name: str, *groups: str) -> httpx.Client:
        return service.http(service.add_user(name, groups))

    monitor, manager = user("monitor"), user("manager")
    member, stranger = user("member", "urn:headrace:group:watchers"), user("nobody")
    here = flows.started(
        monitor_by=["urn:headrace:user:monitor", "urn:headrace:group:watchers"], manage_by=["urn:headrace:user:manager"]
    )["action_id"]

    for watcher in (monitor, member):
        checked(watcher.get(f"{BASE}/{here}/status"))
        refused(watcher.post(f"{BASE}/{here}/cancel"), 404, "ActionNotFound")
    refused(stranger.get(f"{BASE}/{here}/status"), 404, "ActionNotFound")
    refused(stranger.post(f"{BASE}/{here}/cancel"), 404, "ActionNotFound")
    refused(manager.get(f"{BASE}/{here}/status"), 404, "ActionNotFound")
    assert checked(manager.post(f"{BASE}/{here}/cancel"))["status"] == "FAILED"
    assert checked(manager.post(f"{BASE}/{here}/release"))["creator_id"] == "urn:headrace:user:admin"


@pytest.mark.parametrize("path", ["/nothing", "/a/b/c", "/{id}/explode", "xyz"])
def test_what_is_not_there_is_not_found(service: RunningService, path: str) -> None:
    assert service.http().get(BASE + path).status_code == 404


def test_the_wrong_method_is_named(service: RunningService) -> None:
    response = service.http().get(f"{BASE}/run")

    assert "POST" in refused(response, 405, "BadActionRequest")
    assert response.headers["allow"] == "POST"


def test_actions_are_listed_by_their_creator(service: RunningService, endpoint_id: str, function_id: str) -> None:
    flows = Flows(service.http(service.add_user("lister")), endpoint_id, function_id)
    first, second = flows.started()["action_id"], flows.started()["action_id"]
    checked(flows.http.post(f"{BASE}/{first}/cancel"))

    def listed(query: str) -> set[str]:
        documents = flows.http.get(f"{BASE}/actions{query}").json()
        for document in documents:
            validate("action-status", document)
        return {document["action_id"] for document in documents}

    assert listed("") == {second}
    assert listed("?status=FAILED,succeeded") == {first}
    assert listed("?status=active,failed&roles=creator_id,monitor_by") == {first, second}


def test_the_log_tells_the_story_page_by_page(flows: Flows) -> None:
    here = flows.started()["action_id"]
    checked(flows.http.post(f"{BASE}/{here}/cancel"))

    def page(**query: object) -> dict[str, Any]:
        return dict(flows.http.get(f"{BASE}/{here}/log", params={k: str(v) for k, v in query.items()}).json())

    whole = page()
    codes = [entry["code"] for entry in whole["entries"]]
    assert codes == ["ActionStarted", *["TaskSubmitted"] * 2, *["TaskCancelled"] * 2, "ActionFailed"]
    assert not whole["has_next_page"]
    for name in ("marker", "pagination_token"):
        for reverse, entries in ((False, whole["entries"]), (True, whole["entries"][::-1])):
            order = {"reverse_order": True} if reverse else {}
            read, more = [], page(limit=4, **order)
            while True:
                read += more["entries"]
                assert more["limit"] == 4
                if not more["has_next_page"]:
                    break
                more = page(limit=4, **order, **{name: more["marker"]})
            assert read == entries
    # What one client says of the size of a page, and what it says on top of that.
    assert page(limit=10, per_page=2)["limit"] == 2
    refused(flows.http.get(f"{BASE}/{here}/log?marker=x"), 422, "RequestValidationError")
    refused(flows.http.get(f"{BASE}/{here}/log?limit=0"), 422, "RequestValidationError")


def test_an_action_whose_deadline_passes_ends(service: RunningService, endpoint_id: str, function_id: str) -> None:
    flows = Flows(service.http(), endpoint_id, function_id)
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.3)).isoformat()
    here = flows.started(deadline=soon)["action_id"]

    def ended() -> dict[str, Any] | None:
        status = checked(flows.http.get(f"{BASE}/{here}/status"))
        return status if status["status"] == "FAILED" else None

    end = eventually(ended)
    assert end is not None
    assert end["details"]["code"] == "DeadlineExceeded"


def test_a_finished_action_goes_away_by_itself(flows: Flows) -> None:
    here = flows.started(request_id="short-lived", release_after=1)["action_id"]
    checked(flows.http.post(f"{BASE}/{here}/cancel"))

    eventually(lambda: flows.http.get(f"{BASE}/{here}/status").status_code == 404, 10)
    assert flows.started(request_id="short-lived", release_after=1)["action_id"] != here
