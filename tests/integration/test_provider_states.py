"""Any order of calls on one request id: the provider answers as the protocol's state machine says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from service import RunningService, running_service

from headrace.schemas import validate

BASE = "/actions/compute/v3"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), run_wait_s=0.0) as running:
        yield running


def test_every_order_of_calls_is_answered_as_the_protocol_says(service: RunningService) -> None:
    http = service.http()
    endpoint_id, function_id = service.add_endpoint("away")[0], service.add_function()
    numbers = iter(range(1_000_000))

    class Client(RuleBasedStateMachine):
        """The model: the action that the request id names, and those that were released."""

        @initialize()
        def begin(self) -> None:
            self.request_id = f"request {next(numbers)}"
            self.action: dict[str, Any] | None = None
            self.label = ""
            self.released: list[str] = []

        @rule(label=st.sampled_from(["a", "b"]))
        def run(self, label: str) -> None:
            body = {"endpoint_id": endpoint_id, "tasks": [{"function_id": function_id}]}
            answer = http.post(f"{BASE}/run", json={"request_id": self.request_id, "body": body, "label": label})
            if self.action is None:
                self.action, self.label = checked(answer, 202), label
                assert self.action["status"] == "ACTIVE"
                assert self.action["action_id"] not in self.released
            elif label == self.label:
                assert lasting(checked(answer, 200)) == lasting(self.action)
            else:
                assert answer.status_code == 409

        @rule()
        def cancel(self) -> None:
            if self.action is not None:
                cancelled = checked(self.call("cancel"), 200)
                assert cancelled["status"] == "FAILED"
                assert self.action["status"] == "ACTIVE" or cancelled == self.action
                self.action = cancelled

        @rule()
        def release(self) -> None:
            if self.action is not None:
                answer = self.call("release")
                if self.action["status"] == "ACTIVE":
                    assert answer.status_code == 409
                else:
                    assert checked(answer, 200) == self.action
                    self.released.append(self.action["action_id"])
                    self.action = None

        @invariant()
        def the_action_is_what_it_was(self) -> None:
            if getattr(self, "action", None) is not None and self.action is not None:
                status = checked(http.get(f"{BASE}/{self.action['action_id']}/status"), 200)
                assert lasting(status) == lasting(self.action)
            for action_id in getattr(self, "released", [])[-1:]:
                assert http.get(f"{BASE}/{action_id}/status").status_code == 404
                assert http.post(f"{BASE}/{action_id}/cancel").status_code == 404

        def call(self, verb: str) -> httpx.Response:
            assert self.action is not None
            return http.post(f"{BASE}/{self.action['action_id']}/{verb}")

    run_state_machine_as_test(
        Client,
        settings=settings(
            max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def lasting(status: dict[str, Any]) -> dict[str, Any]:
    """What stays as it is while an action runs: after two seconds it says as well that its endpoint is not there."""
    details = {name: value for name, value in status["details"].items() if name != "endpoints_offline"}
    return {**status, "display_status": None, "details": details}


def checked(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    document: dict[str, Any] = response.json()
    validate("action-status", document)
    return document
