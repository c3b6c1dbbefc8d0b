"""`headrace flow` as a person types it, without a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shell import Shell

GOOD = {
    "StartAt": "Add",
    "States": {
        "Add": {"Type": "ExpressionEval", "Parameters": {"sum.=": "n + 1"}, "ResultPath": "$.added", "Next": "Enough?"},
        "Enough?": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.added.sum", "NumericGreaterThan": 5, "Next": "Too much"}],
            "Default": "Done",
        },
        "Too much": {"Type": "Fail", "Error": "TooMuch", "Cause": "more than five"},
        "Done": {"Type": "Pass", "End": True},
    },
}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A person who has no service."""
    return Shell(tmp_path / "home")


def write(path: Path, document: Any) -> str:
    path.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
    return str(path)


def test_a_run_says_its_steps_and_its_output(shell: Shell, tmp_path: Path) -> None:
    flow, value = write(tmp_path / "flow.json", GOOD), write(tmp_path / "input.json", {"n": 1, "_private_x": "hidden"})

    said = shell("flow", "run", flow, "--input", value)

    assert said.json() == {"n": 1, "added": {"sum": 2}}
    assert [line.split()[2] for line in said.err.splitlines() if " s  " in line] == [
        *("FlowStarted", "ExpressionEvalStarted", "ExpressionEvalCompleted", "ChoiceStarted", "ChoiceCompleted"),
        *("PassStarted", "PassCompleted", "FlowSucceeded"),
    ]
    log = next((tmp_path / "home" / "runs").iterdir())
    shown = shell("flow", "show", str(log)).out.splitlines()
    assert len(shown) == 9
    assert "hidden" not in "".join(shown)
    assert [entry["code"] for entry in shell("flow", "show", str(log), "--json").json()][-1] == "FlowSucceeded"
    assert "cannot be read" in shell("flow", "show", str(tmp_path / "none"), status=1).err
    assert f"The run's log: {log}" in said.err
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("value", ['{"n": 9}', "-"])
def test_a_run_that_failed_says_why_and_has_its_own_status(value: str, shell: Shell, tmp_path: Path) -> None:
    flow, typed = write(tmp_path / "flow.json", GOOD), '{"n": 9}' if value == "-" else ""

    said = shell("flow", "run", flow, "-i", value, status=3, typed=typed)
    assert said.out == ""
    assert "The run is FAILED: State Too much raised TooMuch: more than five." in said.err

    document = shell("flow", "run", flow, "-i", value, "--json", status=3, typed=typed).json()
    assert document["status"] == "FAILED"
    assert document["details"]["exception"] == "TooMuch"
    assert Path(document["log"]).exists()


def test_mistakes_are_told_with_their_lines_and_nothing_runs(shell: Shell, tmp_path: Path) -> None:
    flow = write(tmp_path / "flow.json", json.dumps(GOOD, indent=1).replace('"Default": "Done"', '"Default": "Dnoe"'))

    said = shell("flow", "validate", flow, status=1)
    assert f"{flow}: line 21, /States/Enough?/Default: there is no state 'Dnoe'; did you mean 'Done'?" in said.out
    assert f"{flow}: line 28, /States/Done: no way leads to this state" in said.out

    document = shell("flow", "run", flow, "--validate", "--json", status=1).json()
    assert document["valid"] is False
    assert {problem["line"] for problem in document["problems"]} == {21, 28}

    said = shell("flow", "run", flow, status=1)
    assert "line 21" in said.err
    assert not (tmp_path / "home" / "runs").exists()


def test_what_is_valid_is_said_to_be(shell: Shell, tmp_path: Path) -> None:
    flow, schema = write(tmp_path / "flow.json", GOOD), write(tmp_path / "schema.json", {"required": ["n"]})

    assert "is a flow that the Flows service takes" in shell("flow", "validate", flow).out
    assert shell("flow", "validate", flow, "--json").json() == {"valid": True, "problems": []}
    shell("flow", "validate", flow, "--input-schema", schema, "--input", '{"n": 1}')
    said = shell("flow", "validate", flow, "--input-schema", schema, "--input", "{}", status=1)
    assert "the input: /: 'n' is a required property" in said.out
    said = shell("flow", "run", flow, "--input-schema", schema, status=1)
    assert "'n' is a required property" in said.err


def test_what_lives_in_the_service_alone_is_valid_and_refused_here(shell: Shell, tmp_path: Path) -> None:
    state = {"Type": "CreateWebInput", "Parameters": {}, "End": True}
    flow = write(tmp_path / "flow.json", {"StartAt": "A", "States": {"A": state}})

    assert "(unsupported)" in shell("flow", "validate", flow).out
    assert "cannot run from here" in shell("flow", "run", flow, status=1).err


def test_a_definition_may_come_by_a_pipe_and_be_yaml(shell: Shell) -> None:
    text = "StartAt: A\nStates:\n  A: {Type: Pass, Result: {x: 1}, End: true}\n"

    assert shell("flow", "run", "-", typed=text).json() == {"x": 1}


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (
            ["--token", "https://example.org=NOT_SET_ANYWHERE"],
            1,
            "the environment variable NOT_SET_ANYWHERE is not set",
        ),
        (["--token", "abc"], 2, "'abc' is not of the form X=Y"),
        (["--map-url", "abc"], 2, "'abc' is not of the form X=Y"),
        (["--tokens", "/nowhere/tokens.json"], 1, "/nowhere/tokens.json is missing"),
        (["--label", "x" * 65], 1, "label: "),
        (["--monitor-by", "ada"], 1, "monitor_by"),
        (["--input", "/nowhere/input.json"], 1, "/nowhere/input.json cannot be read"),
        (["--input", "{"], 1, "--input cannot be used"),
        (["--input-schema", "/nowhere/schema.json"], 1, "/nowhere/schema.json cannot be used"),
        (["--log", "/dev/null/x"], 1, "cannot be opened"),
        (["--home", "/nowhere"], 1, "/nowhere/profile.json"),
    ],
)
def test_wrong_options_are_told(words: list[str], status: int, told: str, shell: Shell, tmp_path: Path) -> None:
    said = shell("flow", "run", write(tmp_path / "flow.json", GOOD), *words, status=status)

    assert told in said.err


def test_a_missing_token_is_told_at_the_start_and_the_run_waits_for_it(shell: Shell, tmp_path: Path) -> None:
    action = {
        "Type": "Action",
        "ActionUrl": "https://provider.invalid/x",
        "Parameters": {},
        "ResultPath": "$.A",
        "End": True,
    }
    flow = write(tmp_path / "flow.json", {"StartAt": "A", "States": {"A": action}})
    log = tmp_path / "run.jsonl"

    said = shell("flow", "run", flow, "--log", str(log), status=4)

    assert "state A: there is no token for https://provider.invalid/x" in said.err
    assert f"To go on: headrace flow resume {log}" in said.err
    document = shell("flow", "resume", str(log), "--json", status=4).json()
    assert document["status"] == "INACTIVE"
    assert "there is no run log" in shell("flow", "resume", str(tmp_path / "none"), status=1).err
