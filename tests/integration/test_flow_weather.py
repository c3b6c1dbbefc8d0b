"""Flows in bad weather: providers that break, are busy, wait for somebody, or talk nonsense; over real HTTP."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from scripted_http import BREAK, ScriptedServer, Step, free_ports, scripted_server

from headrace.sdk.flows import Circumstances, Entry, Flow, Pace, Run, Tokens, resume, run

QUICK = Pace(first_poll_s=0.01, longest_poll_s=0.02, patience_s=0.5)
END = {"Type": "Pass", "End": True}
ACTIVE: dict[str, Any] = {"action_id": "a-1", "status": "ACTIVE", "details": {}, "label": None}
DONE = {**ACTIVE, "status": "SUCCEEDED", "details": {"result": [1]}}
FAILED = {**ACTIVE, "status": "FAILED", "details": {"code": "TaskFailed", "description": "it broke"}}
CONSENT = {
    **ACTIVE,
    "status": "INACTIVE",
    "details": {"code": "ConsentRequired", "description": "give your consent", "required_scope": "urn:scope:x"},
}


class Seen:
    """An attendant that keeps what it is told; with a pipe it can be answered."""

    def __init__(self, answer: bool = False) -> None:
        self.notes: list[str] = []
        self.entries: list[Entry] = []
        self.key: int | None = None
        if answer:
            self.key, write = os.pipe()
            os.write(write, b"\n")

    def take_key(self) -> bool:
        assert self.key is not None
        return os.read(self.key, 1) != b""

    def note(self, text: str) -> None:
        self.notes.append(text)

    def codes(self) -> list[str]:
        return [entry.code for entry in self.entries]


def flow(server: ScriptedServer, **more: Any) -> Flow:
    action = {
        "Type": "Action",
        "ActionUrl": f"{server.url}/provider",
        "Parameters": {"n.$": "$.n"},
        "ResultPath": "$.A",
        "Next": "E",
        **more,
    }
    return Flow.of({"StartAt": "A", "States": {"A": action, "E": END}})


def circumstances(server: ScriptedServer, seen: Seen, **more: Any) -> Circumstances:
    return Circumstances(
        tokens=Tokens({server.url: "t-1"}), pace=QUICK, attendant=seen, tell=seen.entries.append, **more
    )


def tried(server: ScriptedServer, tmp_path: Path, seen: Seen, *, keep: bool = True, **more: Any) -> Run:
    met = circumstances(server, seen, keep_actions=keep)
    return run(flow(server, **more), {"n": 1}, log=tmp_path / "run.jsonl", circumstances=met)


BUSY: dict[str, Step] = {
    "broken": (BREAK, b""),
    "unavailable": (503, {"code": "Unavailable"}),
    "too many": (429, {"code": "QueueFull"}),
    "a gateway": (502, b"<html>"),
    "an error": (500, {"code": "ActionProviderError"}),
}


@pytest.mark.parametrize("kind", BUSY)
def test_a_start_is_tried_again_under_one_request_id(kind: str, tmp_path: Path) -> None:
    seen = Seen()
    with scripted_server(BUSY[kind], (202, DONE)) as server:
        ended = tried(server, tmp_path, seen)

    assert ended.status == "SUCCEEDED"
    assert server.asked == ["POST /provider/run"] * 2
    assert len(seen.notes) == 1
    first, second = map(json.loads, server.bodies)
    assert first == second
    assert first["body"] == {"n": 1}
    assert ended.output["A"] == {
        "action_id": "a-1",
        "status": "SUCCEEDED",
        "details": {"result": [1]},
        "state_name": "A",
    }


def test_looks_go_on_when_the_provider_is_away(tmp_path: Path) -> None:
    seen = Seen()
    with scripted_server((202, ACTIVE), (503, {}), (BREAK, b""), (200, ACTIVE), (200, DONE), (200, DONE)) as server:
        ended = tried(server, tmp_path, seen, keep=False)

    assert ended.status == "SUCCEEDED"
    assert server.asked == [
        "POST /provider/run",
        *["GET /provider/a-1/status"] * 4,
        "POST /provider/a-1/release",
    ]
    assert len(seen.notes) == 2, seen.notes
    # Only what has changed is an entry.
    assert seen.codes().count("ActionPolled") == 2


def test_a_provider_that_is_broken_is_not_asked_for_ever(tmp_path: Path) -> None:
    with scripted_server((500, {"code": "ActionProviderError", "description": "a mistake"})) as server:
        patient = dataclasses.replace(circumstances(server, Seen()), pace=Pace(patience_s=60))
        ended = run(flow(server), {"n": 1}, log=tmp_path / "run.jsonl", circumstances=patient)

    assert ended.details["exception"] == "ActionUnableToRun"
    assert ended.details["cause"] == {"code": "ActionProviderError", "description": "a mistake"}
    assert server.asked == ["POST /provider/run"] * 3


@pytest.mark.parametrize(
    "answer",
    [
        (400, {"code": "BadActionRequest", "description": "no such field"}),
        (401, {"code": "UnauthorizedRequest", "description": "who are you?"}),
        (422, {"error": {"code": "X", "detail": "no such field"}}),
        (200, {"hello": "world"}),
        (200, b"<html>"),
        (307, b""),
        (202, {**ACTIVE, "action_id": None}),
    ],
)
def test_a_start_that_is_refused_is_an_exception_with_the_answer(answer: Step, tmp_path: Path) -> None:
    catch = [{"ErrorEquals": ["ActionUnableToRun"], "ResultPath": "$.error", "Next": "E"}]
    with scripted_server(answer) as server:
        caught = tried(server, tmp_path / "1", Seen(), Catch=catch)
        failed = tried(server, tmp_path / "2", Seen())

    assert server.asked == ["POST /provider/run"] * 2
    assert caught.status == "SUCCEEDED"
    assert caught.output["error"]["state_name"] == "A"
    assert caught.output["error"]["exception"] == "ActionUnableToRun"
    assert failed.status == "FAILED"
    assert failed.details["exception"] == "ActionUnableToRun"
    if isinstance(answer[1], dict):
        assert caught.output["error"]["cause"] == answer[1]


def test_a_provider_that_never_answers_is_given_up(tmp_path: Path) -> None:
    server = ScriptedServer(f"http://127.0.0.1:{free_ports()[0]}")
    ended = tried(server, tmp_path, Seen())

    assert ended.status == "FAILED"
    assert ended.details["exception"] == "ActionUnableToRun"
    assert "Connection refused" in ended.details["cause"]


def test_a_catch_without_a_path_replaces_the_state_as_the_service_does(tmp_path: Path) -> None:
    with scripted_server((202, FAILED)) as server:
        ended = tried(server, tmp_path, Seen(), Catch=[{"ErrorEquals": ["States.ALL"], "Next": "E"}])

    assert ended.output.keys() == {"action_id", "status", "details", "state_name", "exception", "cause"}
    assert ended.output["cause"] == "it broke"


def test_a_failed_action_may_be_a_result(tmp_path: Path) -> None:
    with scripted_server((202, FAILED)) as server:
        ended = tried(server, tmp_path, Seen(), ExceptionOnActionFailure=False)

    assert ended.status == "SUCCEEDED"
    assert ended.output["A"]["status"] == "FAILED"


def test_an_action_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    with scripted_server((202, ACTIVE), (200, {**ACTIVE, "display_status": "half done"})) as server:
        ended = tried(server, tmp_path, Seen(), WaitTime=1)

    assert ended.details["exception"] == "ActionTimeout"
    assert ended.details["display_status"] == "half done"
    assert server.asked[-1] == "POST /provider/a-1/cancel"
    # Looks grow rarer: about 0.01 s, then 0.02 s each, and never beyond the end.
    assert len(server.asked) < 100


def test_an_action_that_is_gone_is_an_exception(tmp_path: Path) -> None:
    with scripted_server((202, ACTIVE), (404, {"code": "ActionNotFound", "description": "gone"})) as server:
        ended = tried(server, tmp_path, Seen())

    assert ended.details["exception"] == "States.Runtime"
    assert ended.details["cause"]["code"] == "ActionNotFound"


def test_an_action_that_waits_for_somebody_is_resumed_from_the_log(tmp_path: Path) -> None:
    seen = Seen()
    with scripted_server((202, CONSENT), (200, CONSENT), (200, ACTIVE), (200, DONE)) as server:
        waiting = tried(server, tmp_path, seen)
        assert waiting.status == "INACTIVE"
        assert waiting.details["action"]["required_scope"] == "urn:scope:x"
        assert seen.codes()[-1] == "FlowInactive"
        assert server.asked == ["POST /provider/run"]

        ended = resume(waiting.log, circumstances=circumstances(server, seen, keep_actions=True))

    assert ended.status == "SUCCEEDED"
    assert server.asked[1:] == ["POST /provider/a-1/resume", *["GET /provider/a-1/status"] * 2]


def test_an_action_that_waits_for_somebody_is_resumed_with_a_key(tmp_path: Path) -> None:
    seen = Seen(answer=True)
    with scripted_server((202, CONSENT), (404, {}), (200, ACTIVE), (200, DONE)) as server:
        ended = tried(server, tmp_path, seen)

    assert ended.status == "SUCCEEDED"
    assert server.asked[1] == "POST /provider/a-1/resume"
    assert [code for code in seen.codes() if code.startswith("Flow")] == [
        "FlowStarted",
        "FlowInactive",
        "FlowResumed",
        "FlowSucceeded",
    ]
    # Not every provider can be asked to resume.
    assert "was not resumed" in seen.notes[0]


def test_an_action_may_go_on_by_itself(tmp_path: Path) -> None:
    seen = Seen(answer=True)
    assert seen.take_key()
    with scripted_server((202, CONSENT), (200, CONSENT), (200, DONE)) as server:
        ended = tried(server, tmp_path, seen)

    assert ended.status == "SUCCEEDED"
    assert server.asked == ["POST /provider/run", *["GET /provider/a-1/status"] * 2]


def test_a_missing_token_is_waited_for_and_none_is_sent(tmp_path: Path) -> None:
    seen = Seen()
    with scripted_server((202, DONE)) as server:
        met = Circumstances(pace=QUICK, attendant=seen, tell=seen.entries.append, keep_actions=True)
        waiting = run(flow(server), {"n": 1}, log=tmp_path / "run.jsonl", circumstances=met)
        assert waiting.status == "INACTIVE"
        assert waiting.details["action"]["code"] == "TokenMissing"
        assert server.asked == []

        ended = resume(waiting.log, circumstances=circumstances(server, seen, keep_actions=True))

    assert ended.status == "SUCCEEDED"


def test_a_token_that_expires_on_the_way_loses_no_action(tmp_path: Path) -> None:
    seen = Seen()
    with scripted_server((202, ACTIVE), (401, {"code": "UnauthorizedRequest"}), (200, DONE)) as server:
        waiting = tried(server, tmp_path, seen)
        assert waiting.status == "INACTIVE"
        assert waiting.details["action"]["code"] == "TokenRefused"

        ended = resume(waiting.log, circumstances=circumstances(server, seen, keep_actions=True))

    assert ended.status == "SUCCEEDED"
    assert server.asked.count("POST /provider/run") == 1


def test_a_provider_may_be_named_by_a_handler(tmp_path: Path) -> None:
    with scripted_server((202, DONE)) as server:
        action = {
            "Type": "Action",
            "Handler": {"Type": "ActionProvider", "Url": f"{server.url}/provider", "Scope": "urn:scope:x"},
            "InputPath": "$.body",
            "ResultPath": "$.A",
            "End": True,
        }
        met = Circumstances(tokens=Tokens({"urn:scope:x": "t-1"}), pace=QUICK, keep_actions=True)
        handled = Flow.of({"StartAt": "A", "States": {"A": action}})
        ended = run(handled, {"body": {"n": 7}}, log=tmp_path / "run.jsonl", circumstances=met)

    assert ended.status == "SUCCEEDED"
    assert server.asked == ["POST /provider/run"]
    assert json.loads(server.bodies[0])["body"] == {"n": 7}


def test_a_role_acts_with_the_token_that_the_input_has_for_it(tmp_path: Path) -> None:
    with scripted_server((202, DONE)) as server:
        met = circumstances(server, Seen(), keep_actions=True)
        as_admin = flow(server, RunAs="Admin")
        waiting = run(as_admin, {"n": 1}, log=tmp_path / "1.jsonl", circumstances=met)
        ended = run(as_admin, {"n": 1, "_tokens": {"Admin": "t-2"}}, log=tmp_path / "2.jsonl", circumstances=met)

    assert waiting.status == "INACTIVE"
    assert "the role 'Admin'" in waiting.details["action"]["description"]
    assert ended.status == "SUCCEEDED"
    assert len(server.asked) == 1


def test_what_cannot_be_released_is_no_failure(tmp_path: Path) -> None:
    seen = Seen()
    with scripted_server((202, DONE), (409, {"code": "ActionConflict", "description": "not complete"})) as server:
        ended = tried(server, tmp_path, seen, keep=False)

    assert ended.status == "SUCCEEDED"
    assert "was not released" in seen.notes[0]


def test_ids_and_addresses_are_joined_as_they_are(tmp_path: Path) -> None:
    odd = {**DONE, "action_id": "a/../b c"}
    with scripted_server((202, odd), (200, odd)) as server:
        ended = tried(server, tmp_path, Seen(), keep=False, ActionUrl=f"{server.url}/provider/")

    assert ended.status == "SUCCEEDED"
    assert server.asked == ["POST /provider/run", "POST /provider/a%2F..%2Fb%20c/release"]
