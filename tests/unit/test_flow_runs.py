"""Runs of flows that call nobody: what each state does with the data, and what the log can do."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.sdk.flows import (
    Cancellation,
    Circumstances,
    DefinitionInvalid,
    Entry,
    Flow,
    Run,
    RunLogUnusable,
    Wish,
    resume,
    run,
)
from headrace.sdk.flows.run_log import RunLog

END = {"Type": "Pass", "End": True}


def flow(start: dict[str, Any], **states: Any) -> Flow:
    """A flow that begins with this state, called `A`."""
    return Flow.of({"StartAt": "A", "States": {"A": start, **states}})


def done(tmp_path: Path, tried: Flow, value: dict[str, Any], **circumstances: Any) -> Run:
    """A run of it, in a log of its own."""
    return run(tried, value, log=tmp_path / "run.jsonl", circumstances=Circumstances(**circumstances))


def codes(log: Path) -> list[str]:
    """The codes of a log."""
    return [json.loads(line)["code"] for line in log.read_text().splitlines()]


PASSES: dict[str, tuple[dict[str, Any], Any]] = {
    "everything": ({}, {"a": {"b": 1}, "n": 2}),
    "a result": ({"Result": {"x": 1}, "ResultPath": "$.r"}, {"a": {"b": 1}, "n": 2, "r": {"x": 1}}),
    "a path": ({"InputPath": "$.a.b", "ResultPath": "$.a.c"}, {"a": {"b": 1, "c": 1}, "n": 2}),
    "parameters": ({"Parameters": {"m.=": "n * 2", "k.$": "$.a"}}, {"m": 4, "k": {"b": 1}}),
    "the whole by its path": ({"InputPath": "$"}, {"a": {"b": 1}, "n": 2}),
    "the whole as a parameter": ({"Parameters": {"all.$": "$"}}, {"all": {"a": {"b": 1}, "n": 2}}),
    "everything below": ({"ResultPath": "$.all"}, {"a": {"b": 1}, "n": 2, "all": {"a": {"b": 1}, "n": 2}}),
    "a value that is no object": ({"InputPath": "$.n"}, 2),
}


@pytest.mark.parametrize("case", PASSES)
def test_a_pass_moves_values(case: str, tmp_path: Path) -> None:
    fields, expected = PASSES[case]

    ended = done(tmp_path, flow({"Type": "Pass", "End": True, **fields}), {"a": {"b": 1}, "n": 2})

    assert ended.status == "SUCCEEDED"
    assert ended.output == expected
    assert ended.details["code"] == "FlowSucceeded"
    assert codes(ended.log) == ["FlowStarted", "PassStarted", "PassCompleted", "FlowSucceeded"]


def test_the_context_is_there_to_be_read_and_in_no_state(tmp_path: Path) -> None:
    parameters = {"run.$": "$._context.run_id", "ids.=": "_context.identities", "exp.$": "$._context.token_info.exp"}
    ended = done(
        tmp_path, flow({"Type": "ExpressionEval", "Parameters": parameters, "ResultPath": "$.c", "End": True}), {}
    )

    assert ended.output["c"]["run"] == ended.run_id
    assert len(ended.output["c"]["ids"]) == 1
    assert "_context" not in ended.output


def test_a_choice_leads_to_a_failure_with_words_from_the_state(tmp_path: Path) -> None:
    choice = {"Type": "Choice", "Choices": [{"Variable": "$.n", "NumericGreaterThan": 1, "Next": "F"}], "Default": "E"}
    tried = flow(choice, F={"Type": "Fail", "ErrorPath": "$.error", "Cause": "too many"}, E=END)

    ended = done(tmp_path, tried, {"n": 2, "error": "TooMany"})

    assert ended.status == "FAILED"
    assert ended.details["code"] == "FlowFailed"
    assert ended.details["exception"] == "TooMany"
    assert ended.details["cause"] == "too many"
    assert ended.details["state_name"] == "F"
    assert codes(ended.log)[-3:] == ["FailStarted", "FailFailed", "FlowFailed"]


@pytest.mark.parametrize(
    "state",
    [
        {"Type": "Pass", "InputPath": "$.nothing", "End": True},
        {"Type": "Pass", "ResultPath": "$.n.x", "End": True},
        {"Type": "ExpressionEval", "Parameters": {"x.=": "nothing"}, "ResultPath": "$.x", "End": True},
        {"Type": "Wait", "SecondsPath": "$.text", "End": True},
        {"Type": "Wait", "TimestampPath": "$.text", "End": True},
        {"Type": "Fail", "CausePath": "$.nothing"},
    ],
)
def test_what_is_not_in_the_state_fails_the_run(state: dict[str, Any], tmp_path: Path) -> None:
    ended = done(tmp_path, flow(state), {"n": 1, "text": "t"})

    assert ended.status == "FAILED"
    assert ended.details["exception"] == "States.Runtime"
    assert ended.output == {"n": 1, "text": "t"}


def test_a_wait_that_is_over_waits_for_nothing(tmp_path: Path) -> None:
    tried = flow(
        {"Type": "Wait", "Timestamp": "2020-01-01T00:00:00Z", "Next": "B"},
        B={"Type": "Wait", "SecondsPath": "$.s", "Next": "C"},
        C={"Type": "Wait", "Seconds": 0, "End": True},
    )

    ended = done(tmp_path, tried, {"s": 0.01})

    assert ended.status == "SUCCEEDED"
    assert ended.output == {"s": 0.01}


def test_what_is_private_is_not_shown_and_is_there(tmp_path: Path) -> None:
    parameters = {"_private_key": "k-1", "open.=": "_private_in", "__Private_Parameters": ["open"]}
    seen: list[Entry] = []
    tried = flow({"Type": "Pass", "Parameters": parameters, "ResultPath": "$.p", "End": True})

    ended = done(tmp_path, tried, {"_private_in": "s-1"}, tell=seen.append)

    shown = json.dumps([entry.document() for entry in seen[1:-1]]) + json.dumps(
        ended.details["output"]["p"].get("_private_key")
    )
    assert "k-1" not in shown
    assert "s-1" not in shown
    assert ended.output["p"] == {"_private_key": "k-1", "open": "s-1"}
    assert ended.log.stat().st_mode & 0o777 == 0o600


def test_tokens_of_the_input_are_in_no_file_and_in_no_state(tmp_path: Path) -> None:
    ended = done(tmp_path, flow(END), {"_tokens": {"Admin": "t-secret"}, "n": 1})

    assert ended.output == {"n": 1}
    assert "t-secret" not in ended.log.read_text()


def test_a_state_that_the_service_would_not_take_is_told_once(tmp_path: Path) -> None:
    class Listener:
        key = None

        def __init__(self) -> None:
            self.notes: list[str] = []

        def take_key(self) -> bool:
            return False

        def note(self, text: str) -> None:
            self.notes.append(text)

    listener = Listener()
    more = {"Type": "Pass", "Result": {"x": "y" * 210_000}, "ResultPath": "$.large"}

    ended = done(tmp_path, flow({**more, "Next": "B"}, B={**more, "End": True}), {}, attendant=listener)

    assert ended.status == "SUCCEEDED"
    assert listener.notes == ["the state is larger than 200000 bytes: the Flows service would not take it"]


def test_a_run_that_is_asked_to_end_ends_while_it_waits(tmp_path: Path) -> None:
    tried = flow({"Type": "Wait", "Seconds": 1000, "End": True})
    with Cancellation() as cancellation:
        told = threading.Event()

        def tell(entry: Entry) -> None:
            if entry.code == "WaitStarted":
                threading.Thread(target=cancellation.request).start()
                told.set()

        ended = done(tmp_path, tried, {}, cancellation=cancellation, tell=tell)

    assert told.is_set()
    assert ended.status == "CANCELED"
    assert codes(ended.log)[-1] == "FlowCanceled"
    with pytest.raises(RunLogUnusable, match="has ended"):
        resume(ended.log)


def test_a_wait_goes_on_from_where_it_was(tmp_path: Path) -> None:
    until = time.time() + 0.3
    tried = flow({"Type": "Wait", "SecondsPath": "$.s", "End": True})
    with Cancellation() as cancellation:

        def tell(entry: Entry) -> None:
            if entry.code == "WaitStarted":
                cancellation.request(Wish.LEAVE)

        left = done(tmp_path, tried, {"s": 0.3}, cancellation=cancellation, tell=tell)
    assert left.status == "INTERRUPTED"

    ended = resume(left.log)

    assert ended.status == "SUCCEEDED"
    assert time.time() >= until
    assert codes(left.log).count("WaitStarted") == 1


LOOP = {
    "StartAt": "Count",
    "States": {
        "Count": {"Type": "ExpressionEval", "Parameters": {"i.=": "c.i + 1"}, "ResultPath": "$.c", "Next": "More?"},
        "More?": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.c.i", "NumericLessThan": 3, "Next": "Count"}],
            "Default": "Nothing",
        },
        "Nothing": {"Type": "Wait", "Seconds": 0, "Next": "End"},
        "End": {"Type": "Pass", "Parameters": {"total.$": "$.c.i"}, "ResultPath": "$.end", "End": True},
    },
}


def test_a_run_goes_on_from_every_line_of_its_log(tmp_path: Path) -> None:
    whole = run(Flow.of(LOOP), {"c": {"i": 0}}, log=tmp_path / "whole.jsonl", circumstances=Circumstances())
    assert whole.output == {"c": {"i": 3}, "end": {"total": 3}}
    lines = whole.log.read_bytes().splitlines(keepends=True)

    for count in range(1, len(lines)):
        part = tmp_path / f"{count}.jsonl"
        # As a power cut leaves it: with half of the next line.
        part.write_bytes(b"".join(lines[:count]) + lines[count][: len(lines[count]) // 2])
        ended = resume(part, circumstances=Circumstances())
        assert ended.output == whole.output, count
        assert ended.run_id == whole.run_id
        assert codes(part)[-1] == "FlowSucceeded"


def test_a_log_that_is_named_again_is_gone_on_with(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    whole = run(Flow.of(LOOP), {"c": {"i": 0}}, log=log, circumstances=Circumstances())
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:5]))

    with pytest.raises(RunLogUnusable, match="another input"):
        run(Flow.of(LOOP), {"c": {"i": 1}}, log=log, circumstances=Circumstances())
    with pytest.raises(RunLogUnusable, match="another definition"):
        run(flow(END), {"c": {"i": 0}}, log=log, circumstances=Circumstances())
    assert run(Flow.of(LOOP), {"c": {"i": 0}}, log=log, circumstances=Circumstances()).output == whole.output
    with pytest.raises(RunLogUnusable, match=r"has ended \(FlowSucceeded\)"):
        run(Flow.of(LOOP), {"c": {"i": 0}}, log=log, circumstances=Circumstances())


def test_a_log_is_one_processs_alone(tmp_path: Path) -> None:
    with RunLog.open(tmp_path / "run.jsonl"), pytest.raises(RunLogUnusable, match="another process"):
        RunLog.open(tmp_path / "run.jsonl")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin with the start"),
        (b"hello\n", "line 1: this is no entry"),
        (b"hello", "is no run log"),
        (b"[]\n", "line 1: this is no entry"),
        (b'{"time":"2026-05-01T12:00:00Z","code":"PassStarted","description":"","details":{}}\n', "does not begin"),
        (
            b'{"time":"2026-05-01T12:00:00Z","code":"FlowStarted","description":"","details":{},"resume":{"version":9}}\n',
            "another release",
        ),
    ],
)
def test_what_is_no_log_is_told_and_stays_as_it_is(content: bytes, words: str, tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    log.write_bytes(content)

    with pytest.raises(RunLogUnusable, match=words):
        resume(log, circumstances=Circumstances())
    assert log.read_bytes() == content


def test_a_log_that_is_damaged_in_the_middle_is_told(tmp_path: Path) -> None:
    whole = run(Flow.of(LOOP), {"c": {"i": 0}}, log=tmp_path / "run.jsonl", circumstances=Circumstances())
    lines = whole.log.read_text().splitlines()[:3]
    document = json.loads(lines[2])
    del document["resume"]
    whole.log.write_text("\n".join([*lines[:2], json.dumps(document)]) + "\n")

    with pytest.raises(RunLogUnusable, match="is damaged"):
        resume(whole.log, circumstances=Circumstances())


def test_a_log_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunLogUnusable, match="there is no run log"):
        resume(tmp_path / "none.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunLogUnusable, match="cannot be opened"):
        run(Flow.of(LOOP), {}, log=tmp_path / "file" / "run.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to write to")
def test_a_full_disk_is_told() -> None:
    log = RunLog(Path("/dev/full"), os.open("/dev/full", os.O_WRONLY), ())
    with log, pytest.raises(RunLogUnusable, match="cannot be written: No space left"):
        log.append(Entry(code="PassStarted", description=""))


def test_an_input_that_is_no_object_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(DefinitionInvalid):
        run(flow(END), [1], log=tmp_path / "run.jsonl")  # type: ignore[arg-type] # which is the case
    assert not (tmp_path / "run.jsonl").exists()
