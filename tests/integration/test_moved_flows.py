"""The flows of the how-to "Move a flow from Globus Compute" run as they are printed there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from running_pool import RunningPool
from service import RunningService

from headrace.sdk.flows import Circumstances, Flow, Pace, RunOptions, Tokens, run
from headrace.sdk.profile import Profile

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "move-a-flow.md").read_text(encoding="utf-8")
FLOWS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
CODE = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if code.startswith("# averages.py"))
ROWS = dict(re.findall(r"^\| `(https://\S+)` \| `https://headrace.example.org(/\S+)` \|$", PAGE, re.MULTILINE))


@pytest.fixture(scope="module")
def given(service: RunningService, pool: RunningPool) -> dict[str, Any]:
    """The input that the page tells of."""
    functions = {
        f"{name}_function_id": service.add_function(CODE, name, entry_point=name)
        for name in ("make_numbers", "average_numbers")
    }
    return {"input": {"compute_endpoint": pool.endpoint_id, "count": 5, **functions}}


@pytest.fixture
def met(service: RunningService) -> Circumstances:
    return Circumstances(
        tokens=Tokens(profile=Profile(url=service.url, token=service.token)), pace=Pace(first_poll_s=0.02)
    )


@pytest.mark.parametrize("definition", FLOWS, ids=["V3", "V2"])
def test_a_flow_of_globus_compute_runs_unchanged(
    service: RunningService, given: dict[str, Any], met: Circumstances, definition: str, tmp_path: Path
) -> None:
    elsewhere = RunOptions(instead_of={"https://compute.actions.globus.org": f"{service.url}/actions/compute"})

    done = run(Flow.of(json.loads(definition)), given, log=tmp_path / "log", options=elsewhere, circumstances=met)

    assert done.status == "SUCCEEDED", done.details
    assert done.output["AverageNumbers"]["details"]["results"][0]["output"] == 2.0
    assert done.output["AverageNumbers"]["details"]["result"] == [2.0]


@pytest.mark.parametrize("definition", FLOWS, ids=["V3", "V2"])
def test_a_flow_of_globus_compute_runs_when_its_addresses_are_changed_as_the_page_says(
    service: RunningService, given: dict[str, Any], met: Circumstances, definition: str, tmp_path: Path
) -> None:
    document = json.loads(definition)
    for state in document["States"].values():
        state["ActionUrl"] = service.url + ROWS[state["ActionUrl"]]

    done = run(Flow.of(document), given, log=tmp_path / "log", circumstances=met)

    assert done.status == "SUCCEEDED", done.details
    assert done.output["AverageNumbers"]["details"]["result"] == [2.0]


def test_every_address_of_the_page_is_that_of_a_provider(service: RunningService) -> None:
    assert len(ROWS) == 4
    for path in ROWS.values():
        assert service.http("").get(path).json()["title"].startswith("Headrace Compute")
