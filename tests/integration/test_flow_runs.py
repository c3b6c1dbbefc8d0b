"""Flows against a real service and a real pool: actions that run once, whatever becomes of who started them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gates import WAIT_FOR
from running_pool import RunningPool
from service import RunningService
from waiting import eventually

from headrace.sdk.flows import Circumstances, Flow, Pace, RunOptions, Tokens, resume, run
from headrace.sdk.profile import Profile

PROVIDER = "https://compute.actions.globus.org/v3"
"""What a flow of Globus Compute names; it is called at the service instead."""

NOTE = "def note(path, x):\n    with open(path, 'a') as file:\n        file.write('x')\n    return x * x\n"
RAISE = "def fall(x):\n    raise ValueError(f'{x} is bad')\n"


@pytest.fixture(scope="module")
def functions(service: RunningService) -> dict[str, str]:
    """The functions that the flows call."""
    sources = {"note": NOTE, "fall": RAISE, "wait_for": WAIT_FOR}
    return {name: service.add_function(source, name, entry_point=name) for name, source in sources.items()}


@pytest.fixture
def met(service: RunningService) -> Circumstances:
    return Circumstances(
        tokens=Tokens(profile=Profile(url=service.url, token=service.token)), pace=Pace(first_poll_s=0.02)
    )


def options(service: RunningService, **more: Any) -> RunOptions:
    return RunOptions(instead_of={PROVIDER: f"{service.url}/actions/compute/v3"}, **more)


def call(function: str, follows: str, **more: Any) -> dict[str, Any]:
    """A state that calls a function with what the input has for it."""
    return {
        "Type": "Action",
        "ActionUrl": PROVIDER,
        "Parameters": {
            "endpoint_id.$": "$.endpoint",
            "tasks": [{"function_id.$": f"$.functions.{function}", "kwargs.$": f"$.{function}"}],
        },
        "ResultPath": f"$.{function}_result",
        "Next": follows,
        **more,
    }


END = {"Type": "Pass", "End": True}
TWICE = Flow.of(
    {
        "StartAt": "Note",
        "States": {
            "Note": call("note", "Good?"),
            "Good?": {
                "Type": "Choice",
                "Choices": [{"Variable": "$.note_result.details.result[0]", "NumericEquals": 9, "Next": "Fall"}],
            },
            "Fall": call(
                "fall",
                "End",
                Catch=[{"ErrorEquals": ["ActionFailedException"], "ResultPath": "$.error", "Next": "End"}],
            ),
            "End": {
                "Type": "ExpressionEval",
                "Parameters": {"y.=": "note_result.details.result[0] + 1"},
                "ResultPath": "$.end",
                "End": True,
            },
        },
    }
)


def given(pool: RunningPool, functions: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    """The input of the flows."""
    return {
        "endpoint": pool.endpoint_id,
        "functions": functions,
        "note": {"path": str(tmp_path / "effects"), "x": 3},
        "fall": {"x": 3},
        "wait_for": {"path": str(tmp_path / "go"), "note": str(tmp_path / "runs")},
    }


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_flow_of_compute_runs_by_another_url_alone(
    service: RunningService, pool: RunningPool, functions: dict[str, str], met: Circumstances, tmp_path: Path
) -> None:
    label = f"run {uuid.uuid4().hex}"
    value = given(pool, functions, tmp_path)

    ended = run(TWICE, value, log=tmp_path / "run.jsonl", options=options(service, label=label), circumstances=met)

    assert ended.status == "SUCCEEDED", ended.details
    assert ended.output["end"] == {"y": 10}
    assert ended.output["note_result"]["label"] == label
    assert ended.output["note_result"]["state_name"] == "Note"
    assert ended.output["error"]["exception"] == "ActionFailedException"
    assert "3 is bad" in ended.output["error"]["cause"]
    codes = [entry["code"] for entry in lines(ended.log)]
    assert codes[0] == "FlowStarted"
    assert codes[-1] == "FlowSucceeded"
    assert codes.count("ActionReleased") == 2
    # Released is forgotten.
    action = ended.output["note_result"]["action_id"]
    assert service.http().get(f"/actions/compute/v3/{action}/status").status_code == 404


def test_a_run_goes_on_from_every_line_of_its_log_and_nothing_runs_twice(
    service: RunningService, pool: RunningPool, functions: dict[str, str], met: Circumstances, tmp_path: Path
) -> None:
    kept = Circumstances(tokens=met.tokens, pace=met.pace, keep_actions=True)
    value = given(pool, functions, tmp_path)
    whole = run(TWICE, value, log=tmp_path / "run.jsonl", options=options(service), circumstances=kept)
    written = whole.log.read_bytes().splitlines(keepends=True)
    announced = next(number for number, line in enumerate(written) if b'"ActionStarted"' in line)

    for count in range(announced + 1, len(written)):
        part = tmp_path / f"{count}.jsonl"
        part.write_bytes(b"".join(written[:count]))
        ended = resume(part, circumstances=kept)
        assert ended.output["end"] == {"y": 10}, count
        assert ended.output["note_result"]["action_id"] == whole.output["note_result"]["action_id"]

    assert (tmp_path / "effects").read_text() == "x"


THIRD_TIME = """
def third_time(path):
    with open(path, "a") as file:
        file.write("x")
    with open(path) as file:
        tries = len(file.read())
    if tries < 3:
        raise RuntimeError(f"try {tries}")
    return "at last"
"""


def test_the_example_of_a_loop_tries_again(
    service: RunningService, pool: RunningPool, met: Circumstances, tmp_path: Path
) -> None:
    flow = Flow.read(Path(__file__).parents[2] / "examples" / "flows" / "retry.yaml")
    function = service.add_function(THIRD_TIME, "third_time", entry_point="third_time")
    here = RunOptions(instead_of={"http://127.0.0.1:8742": service.url})

    def tried(path: Path) -> Any:
        value = {"endpoint_id": pool.endpoint_id, "function_id": function, "kwargs": {"path": str(path)}}
        return run(flow, value, log=tmp_path / f"{path.parent.name}.jsonl", options=here, circumstances=met)

    assert tried(tmp_path / "tries").output == {"value": "at last", "tries": 3}
    failed = tried(tmp_path / "no such directory" / "tries")
    assert failed.status == "FAILED"
    assert failed.details["exception"] == "TriedThreeTimes"
    assert failed.details["cause"] == "Task failed"


def test_the_example_of_an_instrument_goes_through_three_providers(
    service: RunningService, pool: RunningPool, met: Circumstances, tmp_path: Path
) -> None:
    flow = Flow.read(Path(__file__).parents[2] / "examples" / "flows" / "instrument.json")
    function = service.add_function("def total(amounts):\n    return sum(amounts)\n", "total", entry_point="total")
    value = {"endpoint_id": pool.endpoint_id, "function_id": function, "run": uuid.uuid4().hex, "amounts": [1, 2, 4]}
    here = RunOptions(instead_of={"http://127.0.0.1:8742": service.url})

    ended = run(flow, value, log=tmp_path / "run.jsonl", options=here, circumstances=met)

    assert ended.status == "SUCCEEDED", ended.details
    assert ended.output["total"] == 7


def test_an_action_whose_time_is_over_is_cancelled(
    service: RunningService, pool: RunningPool, functions: dict[str, str], met: Circumstances, tmp_path: Path
) -> None:
    flow = Flow.of({"StartAt": "Wait", "States": {"Wait": call("wait_for", "End", WaitTime=1), "End": END}})
    kept = Circumstances(tokens=met.tokens, pace=met.pace, keep_actions=True)

    value = given(pool, functions, tmp_path)
    ended = run(flow, value, log=tmp_path / "run.jsonl", options=options(service), circumstances=kept)

    assert ended.status == "FAILED"
    assert ended.details["exception"] == "ActionTimeout"
    status = service.http().get(f"/actions/compute/v3/{ended.details['action_id']}/status").json()
    assert status["status"] == "FAILED"
    assert status["details"]["code"] == "Cancelled"


WAITS = {"StartAt": "Wait", "States": {"Wait": call("wait_for", "Note"), "Note": call("note", "End"), "End": END}}


@contextlib.contextmanager
def started(
    service: RunningService, pool: RunningPool, functions: dict[str, str], tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """`headrace flow run` as a process, whose first action runs and waits for the file `go`."""
    (tmp_path / "flow.json").write_text(json.dumps(WAITS))
    (tmp_path / "input.json").write_text(json.dumps(given(pool, functions, tmp_path)))
    words = ["run", str(tmp_path / "flow.json"), "--input", str(tmp_path / "input.json")]
    words += ["--log", str(tmp_path / "run.jsonl"), "--map-url", f"{PROVIDER}={service.url}/actions/compute/v3"]
    process = command(service, *words)
    try:
        eventually((tmp_path / "runs").exists, 10, "the function runs")
        eventually(lambda: b"ActionPolled" in (tmp_path / "run.jsonl").read_bytes(), 10, "the action is known")
        yield process
    finally:
        process.kill()
        process.communicate()


def command(service: RunningService, *words: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", "flow", *words],
        env={**kept, "HEADRACE_URL": service.url, "HEADRACE_TOKEN": service.token},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_that_was_killed_goes_on_with_the_same_action(
    service: RunningService, pool: RunningPool, functions: dict[str, str], tmp_path: Path
) -> None:
    with started(service, pool, functions, tmp_path) as process:
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    first = next(entry for entry in lines(tmp_path / "run.jsonl") if entry["code"] == "ActionPolled")
    (tmp_path / "runs").unlink()

    again = command(service, "resume", str(tmp_path / "run.jsonl"))
    (tmp_path / "go").touch()
    out, err = again.communicate(timeout=60)

    assert again.returncode == 0, err
    assert json.loads(out)["wait_for_result"]["action_id"] == first["details"]["action_id"]
    # The function was not started a second time, and the next step ran once.
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "effects").read_text() == "x"


def test_an_interrupt_cancels_the_action_and_the_run(
    service: RunningService, pool: RunningPool, functions: dict[str, str], tmp_path: Path
) -> None:
    with started(service, pool, functions, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert out == ""
    assert "The run is CANCELED" in err
    entries = lines(tmp_path / "run.jsonl")
    assert entries[-1]["code"] == "FlowCanceled"
    assert entries[-2]["details"]["status"]["details"]["code"] == "Cancelled"


def test_a_termination_leaves_the_action_for_whoever_resumes(
    service: RunningService, pool: RunningPool, functions: dict[str, str], tmp_path: Path
) -> None:
    with started(service, pool, functions, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"To go on: headrace flow resume {tmp_path / 'run.jsonl'}" in err

    (tmp_path / "go").touch()
    profile = Profile(url=service.url, token=service.token)
    ended = resume(tmp_path / "run.jsonl", circumstances=Circumstances(tokens=Tokens(profile=profile)))

    assert ended.status == "SUCCEEDED"
    assert ended.output["wait_for_result"]["details"]["result"] == ["done"]
