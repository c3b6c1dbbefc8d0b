"""Actions that lack a consent, with a provider that asks for one: INACTIVE, resumed, ended all the same."""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
from service import RunningService, running_service
from waiting import eventually

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import ConsentRequired
from headrace.action_provider.providers import Provider, Registry
from headrace.action_provider.providers.provider import (
    CANCELLED,
    ActionRow,
    Description,
    Ending,
    ProviderAddress,
)
from headrace.action_provider.providers.requests import ActionRequest
from headrace.action_provider.providers.starts import new_record, start
from headrace.action_provider.state import Service
from headrace.bus.store.action_keys import new_action_id
from headrace.bus.store.actions import Start

SCOPE = "https://auth.globus.org/scopes/1/action_all[urn:globus:auth:scope:transfer.api.globus.org:all]"


@dataclass
class Asking(Provider):
    """Wants a consent while `wants` names a moment: before an action begins, or while it goes on."""

    path: str = "/actions/asking/{place}"
    wants: set[str] = field(default_factory=set)
    begun: list[tuple[str, str]] = field(default_factory=list)

    async def describe(self, service: Service, at: ProviderAddress) -> Description:
        return Description(title="Asking", input_schema={"type": "object"})

    async def run(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Start:
        self._ask("run")
        action_id = str(new_action_id(at.path, caller.principal, request.request_id))
        begun = await start(service, request, new_record(caller, at, request, action_id=action_id))
        if begun.created:
            self.begun.append((at.parameters["place"], at.query.get("with", "")))
            await service.tables.actions.publish_id(begun.record)
        return begun

    async def status(self, service: Service, action: ActionRow) -> ActionRow:
        self._ask("status")
        return action

    async def resume(self, service: Service, caller: Caller, action: ActionRow) -> ActionRow:
        self._ask("resume")
        return await self.status(service, action)

    async def cancel(self, service: Service, action: ActionRow, why: Ending = CANCELLED) -> ActionRow:
        self._ask("cancel")
        details = {"code": why.code, "description": why.description}
        end = msgspec.structs.replace(action.value, status="FAILED", details=details, ended_at=time.time())
        ended = await service.tables.actions.finish(action, end)
        assert ended is not None
        return ended

    async def release(self, service: Service, action: ActionRow) -> None:
        pass

    async def log(self, service: Service, action: ActionRow) -> list[dict[str, Any]]:
        return []

    def _ask(self, moment: str) -> None:
        if moment in self.wants:
            raise ConsentRequired("agree to transfers", required_scope=SCOPE)


ASKING = Asking()
BASE = "/actions/asking/here"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), providers=Registry([ASKING])) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    ASKING.wants.clear()
    ASKING.begun.clear()
    yield service.http()
    ASKING.wants.clear()


def ran(http: httpx.Client, status: int = 202, url: str = f"{BASE}/run", **more: Any) -> dict[str, Any]:
    answer = http.post(url, json={"request_id": uuid.uuid4().hex, "body": {}, **more})
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def call(http: httpx.Client, action: dict[str, Any], verb: str, status: int = 200) -> dict[str, Any]:
    answer = http.request("GET" if verb in ("status", "log") else "POST", f"{BASE}/{action['action_id']}/{verb}")
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def test_an_action_without_the_consent_waits_and_says_for_what(http: httpx.Client) -> None:
    ASKING.wants.add("run")

    action = ran(http)

    assert action["status"] == "INACTIVE"
    assert action["details"] == {
        "code": "ConsentRequired",
        "description": "agree to transfers",
        "required_scope": SCOPE,
        "authorization_parameters": {"required_scopes": [SCOPE], "session_message": "agree to transfers"},
    }
    assert action["display_status"] == "Consent required"
    assert call(http, action, "status") == action


def test_resumed_with_the_consent_it_begins(http: httpx.Client) -> None:
    ASKING.wants.add("run")
    action = ran(http, label="l", monitor_by=["urn:headrace:user:ada"])
    assert call(http, action, "resume")["status"] == "INACTIVE"
    ASKING.wants.clear()

    resumed = call(http, action, "resume")

    assert resumed["status"] == "ACTIVE"
    for name in ("action_id", "start_time", "label", "monitor_by"):
        assert resumed[name] == action[name]
    assert ASKING.begun == [("here", "")]
    assert call(http, action, "resume") == resumed
    assert len(ASKING.begun) == 1
    codes = [entry["code"] for entry in call(http, action, "log")["entries"]]
    assert codes == ["ActionStarted", "ActionInactive", "ActionInactive", "ActionResumed"]


def test_the_same_request_finds_the_action_that_waits(http: httpx.Client) -> None:
    ASKING.wants.add("run")
    action = ran(http, request_id="waits")

    assert ran(http, 200, request_id="waits") == action
    ran(http, 409, request_id="waits", label="other")
    ASKING.wants.clear()
    assert ran(http, 200, request_id="waits") == action
    assert ASKING.begun == []


def test_what_the_address_binds_is_known_when_it_begins_later(http: httpx.Client) -> None:
    ASKING.wants.add("run")
    # What clients make of an address with a query when they append the operation.
    action = ran(http, url=f"{BASE}?with=that/run")
    ASKING.wants.clear()

    call(http, action, "resume")

    assert ASKING.begun == [("here", "that")]


def test_an_action_that_has_begun_becomes_inactive_and_goes_on(http: httpx.Client) -> None:
    action = ran(http)
    ASKING.wants.update(("status", "resume"))

    assert call(http, action, "status")["status"] == "INACTIVE"
    assert call(http, action, "resume")["status"] == "INACTIVE"
    ASKING.wants.clear()
    assert call(http, action, "status")["status"] == "INACTIVE"
    assert call(http, action, "resume")["status"] == "ACTIVE"
    assert len(ASKING.begun) == 1


def test_only_who_started_it_can_give_the_consent(service: RunningService, http: httpx.Client) -> None:
    ASKING.wants.add("run")
    manager = service.http(service.add_user("manager"))
    action = ran(http, manage_by=["urn:headrace:user:manager"])
    ASKING.wants.clear()

    assert "consent must be theirs" in call(manager, action, "resume", 403)["description"]
    assert call(manager, action, "cancel")["status"] == "FAILED"


@pytest.mark.parametrize("moment", ["run", "status"])
def test_an_inactive_action_is_cancelled_and_released_like_any_other(http: httpx.Client, moment: str) -> None:
    ASKING.wants.update((moment, "cancel"))
    action = ran(http)
    assert call(http, action, "status")["status"] == "INACTIVE"
    assert "cancel it first" in call(http, action, "release", 409)["description"]

    cancelled = call(http, action, "cancel")

    assert cancelled["status"] == "FAILED"
    assert cancelled["details"]["code"] == "Cancelled"
    assert call(http, action, "resume") == cancelled
    assert call(http, action, "release") == cancelled
    call(http, action, "status", 404)


def test_the_deadline_of_an_inactive_action_is_kept(http: httpx.Client) -> None:
    ASKING.wants.add("run")
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.5)
    action = ran(http, deadline=soon.isoformat())

    end = eventually(lambda: (seen := call(http, action, "status")) and seen["status"] == "FAILED" and seen, 10)

    assert end
    assert end["details"]["code"] == "DeadlineExceeded"


def test_each_place_of_a_form_is_a_provider_of_its_own(service: RunningService, http: httpx.Client) -> None:
    action = ran(http, request_id="same")
    there = ran(http, request_id="same", url="/actions/asking/there/run")

    assert there["action_id"] != action["action_id"]
    assert http.get(f"/actions/asking/there/{action['action_id']}/status").status_code == 404
    assert service.http("").get(f"{service.url}//actions//asking/there/?with=that").json()["title"] == "Asking"
