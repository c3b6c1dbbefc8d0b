"""The how-to "Use Headrace from a Globus flow": its flow as it is printed, run by users of Globus (with something on
loopback in the place of Globus Auth)."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_globus import CONSENT_NEEDED, FakeGlobus, urn_of
from globus_sdk import gare
from running_pool import RunningPool, running_pool
from service import RunningService, running_service

from headrace.action_provider.auth.settings import AuthSettings
from headrace.sdk.flows import Circumstances, Flow, Pace, RunOptions, Tokens, resume, run

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "use-from-a-globus-flow.md").read_text(encoding="utf-8")
(DEFINITION,) = (json.loads(each) for each in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ADA, BEN = "ada@example.org", "ben@example.org"
GROUP = str(uuid.uuid4())


@pytest.fixture(scope="module")
def service(globus: FakeGlobus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    auth = AuthSettings(globus=globus.settings(believe_s=0.2, groups_s=0.2))
    with running_service(tmp_path_factory.mktemp("service"), auth=auth) as running:
        yield running


@pytest.fixture(scope="module")
def pool(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(service, tmp_path_factory.mktemp("pool")) as running:
        share = {"with": f"urn:globus:groups:id:{GROUP}"}
        assert service.http().post(f"/api/v1/endpoints/{running.endpoint_id}/shares", json=share).is_success
        yield running


@pytest.fixture
def given(service: RunningService, pool: RunningPool) -> dict[str, Any]:
    """The input of the flow."""
    function = service.add_function(CODE, "mean", entry_point="mean", public=True)
    return {"endpoint": pool.endpoint_id, "function": function, "values": [1, 2, 6]}


def with_token(service: RunningService, token: str) -> Circumstances:
    return Circumstances(tokens=Tokens({service.url: token}), pace=Pace(first_poll_s=0.02))


def at(service: RunningService, **more: Any) -> RunOptions:
    return RunOptions(instead_of={"https://headrace.example.org": service.url}, **more)


def test_the_flow_of_the_page_runs_for_a_member_of_the_group(
    service: RunningService, globus: FakeGlobus, given: dict[str, Any], tmp_path: Path
) -> None:
    token = globus.token(ADA)
    globus.groups[token] = [GROUP]

    options = at(service, label="a run", monitor_by=[f"urn:globus:groups:id:{GROUP}"], manage_by=[urn_of(BEN)])
    done = run(
        Flow.of(DEFINITION),
        given,
        log=tmp_path / "log",
        options=options,
        circumstances=with_token(service, token),
    )

    assert done.status == "SUCCEEDED", done.details
    assert done.output["Report"] == {"mean": 3.0}
    assert done.output["Analysis"]["creator_id"] == urn_of(ADA)
    assert done.output["Analysis"]["label"] == "a run"


def test_a_run_without_the_consent_waits_and_goes_on_with_it(
    service: RunningService, globus: FakeGlobus, given: dict[str, Any], tmp_path: Path
) -> None:
    silent, agreed = globus.token(BEN), globus.token(BEN)
    globus.grants[silent] = (400, CONSENT_NEEDED)
    globus.groups[agreed] = [GROUP]

    waits = run(
        Flow.of(DEFINITION),
        given,
        log=tmp_path / "log",
        options=at(service),
        circumstances=with_token(service, silent),
    )
    assert waits.status == "INACTIVE"
    asked = waits.details["action"]
    found = gare.to_gare(asked)
    assert found is not None
    assert found.authorization_parameters.required_scopes == [asked["required_scope"]]

    done = resume(tmp_path / "log", circumstances=with_token(service, agreed))
    assert done.status == "SUCCEEDED", done.details
    assert done.output["Report"] == {"mean": 3.0}


def test_who_is_not_let_in_reads_why_in_the_state_of_the_flow(
    service: RunningService, globus: FakeGlobus, given: dict[str, Any], tmp_path: Path
) -> None:
    done = run(
        Flow.of(DEFINITION),
        given,
        log=tmp_path / "log",
        options=at(service),
        circumstances=with_token(service, globus.token(ADA)),
    )

    assert done.status == "SUCCEEDED", done.details
    assert "endpoint" in json.dumps(done.output["Report"]["why"])
