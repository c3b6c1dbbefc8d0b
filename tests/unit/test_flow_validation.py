"""Checking definitions: every problem at once, with its place, its line, and what may have been meant."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas import validate
from headrace.sdk.flows import DefinitionInvalid, Flow, Severity, Written, names_given, problems_of, problems_of_input
from headrace.sdk.flows.documents import read_text

URL = "https://provider.example.org/x"
ACTION: dict[str, Any] = {
    "Type": "Action",
    "ActionUrl": URL,
    "Parameters": {"n.$": "$.n"},
    "ResultPath": "$.A",
    "Next": "End",
}
END: dict[str, Any] = {"Type": "Pass", "End": True}


def flow(**states: Any) -> dict[str, Any]:
    """A definition that begins with `A`, and has an `End`."""
    return {"StartAt": "A", "States": {"A": ACTION, "End": END, **states}}


def changed(state: dict[str, Any], *without: str, **fields: Any) -> dict[str, Any]:
    """A state with other fields."""
    return {key: value for key, value in {**state, **fields}.items() if key not in without}


def told(definition: Any, severity: Severity = Severity.ERROR) -> list[str]:
    """The problems of a definition as `pointer: problem`."""
    found = problems_of(Written(definition))
    return [f"{each.pointer}: {each.problem}" for each in found if each.severity is severity]


WAIT = {"Type": "Wait", "Seconds": 1, "Next": "End"}
EVAL = {"Type": "ExpressionEval", "Parameters": {"x.=": "1"}, "ResultPath": "$.x", "Next": "End"}
RULE = {"Variable": "$.n", "NumericEquals": 1, "Next": "End"}
CATCH = {"ErrorEquals": ["States.ALL"], "Next": "End", "ResultPath": "$.error"}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no start": ({"States": {"End": END}}, ": 'StartAt' is a required property"),
    "start": ({"StartAt": "B", "States": {"End": END}}, "/StartAt: there is no state 'B'"),
    "no states": ({"StartAt": "A", "States": {}}, "/States: {} should be non-empty"),
    "top field": ({**flow(), "Start": 1}, "/Start: there is no field 'Start' here; did you mean 'StartAt'?"),
    "type": (
        flow(A={"Type": "Actoin", "Next": "End"}),
        "/States/A/Type: there is no type 'Actoin'; did you mean 'Action'?",
    ),
    "no type": (flow(A={"Next": "End"}), "/States/A: 'Type' is a required property"),
    "type of another kind": (
        flow(A={"Type": None, "Next": "End"}),
        "/States/A/Type: None is no type (there are: Action",
    ),
    "Task": (flow(A={"Type": "Task", "Next": "End"}), "a flow has Action"),
    "Succeed": (flow(A={"Type": "Succeed"}), 'a flow has Pass with "End": true for it'),
    "field": (
        flow(A=changed(ACTION, WaitTme=5)),
        "/States/A/WaitTme: there is no field 'WaitTme' here; did you mean 'WaitTime'?",
    ),
    "Retry": (flow(A=changed(ACTION, Retry=[])), "/States/A/Retry: there is no field 'Retry' here; a flow has none"),
    "next and end": (flow(A=changed(ACTION, End=True)), "/States/A: 'Next' and 'End' are both there"),
    "neither": (flow(A=changed(ACTION, "Next")), "/States/A: it says nothing of what follows"),
    "end false": (flow(A=changed(ACTION, "Next", End=False)), "/States/A/End: 'End' is true, or it is left out"),
    "target": (flow(A=changed(ACTION, Next="Edn")), "/States/A/Next: there is no state 'Edn'; did you mean 'End'?"),
    "unreachable": (flow(B=changed(ACTION)), "/States/B: no way leads to this state"),
    "long name": (flow(**{"x" * 129: END}), "is too long"),
    "url and handler": (
        flow(A=changed(ACTION, Handler={"Type": "ActionProvider", "Url": URL})),
        "/States/A: 'ActionUrl' and 'Handler' are there together",
    ),
    "no url": (flow(A=changed(ACTION, "ActionUrl")), "/States/A: one of 'ActionUrl' and 'Handler' is needed"),
    "body": (flow(A=changed(ACTION, InputPath="$")), "/States/A: 'Parameters' and 'InputPath' are there together"),
    "no body": (flow(A=changed(ACTION, "Parameters")), "/States/A: one of 'Parameters' and 'InputPath' is needed"),
    "url": (flow(A=changed(ACTION, ActionUrl="ftp://x")), "/States/A/ActionUrl: 'ftp://x' is no https:// URL"),
    "url query": (flow(A=changed(ACTION, ActionUrl=URL + "?a=1")), "no user, no '?' and no '#'"),
    "handler url": (
        flow(A=changed(ACTION, "ActionUrl", Handler={"Type": "ActionProvider"})),
        "/States/A/Handler: 'Url' is missing",
    ),
    "handler field": (
        flow(A=changed(ACTION, "ActionUrl", Handler={"Type": "ActionProvider", "URL": URL, "Url": URL})),
        "/States/A/Handler/URL: there is no field 'URL' here; did you mean 'Url'?",
    ),
    "wait time": (flow(A=changed(ACTION, WaitTime="300")), "/States/A/WaitTime: '300' is not of type 'integer'"),
    "path": (flow(A=changed(ACTION, "Parameters", InputPath="$.a[")), "/States/A/InputPath: '$.a[', character 5"),
    "no path": (flow(A=changed(ACTION, ResultPath="A")), "/States/A/ResultPath: 'A' is not a reference path"),
    "many places": (flow(A=changed(ACTION, ResultPath="$.a[*]")), "/States/A/ResultPath: '$.a[*]' may lead to many"),
    "context": (flow(A=changed(ACTION, ResultPath="$._context.x")), "'$._context' can be read only"),
    "parameter path": (
        flow(A=changed(ACTION, Parameters={"a": [{"b.$": "n"}]})),
        "/States/A/Parameters/a/0/b.$: 'n' is no path: a path begins with '$'",
    ),
    "parameter text": (
        flow(A=changed(ACTION, Parameters={"b.=": 5})),
        "/States/A/Parameters/b.=: a key that ends with '.='",
    ),
    "expression": (
        flow(A=changed(ACTION, Parameters={"b.=": "pathspilt('x')"})),
        "no function 'pathspilt'; did you mean 'pathsplit'?",
    ),
    "same name": (
        flow(A=changed(ACTION, Parameters={"b": 1, "b.$": "$.b"})),
        "/States/A/Parameters/b.$: 'b.$' and 'b' give the same name",
    ),
    "private": (
        flow(A=changed(ACTION, Parameters={"__Private_Parameters": "b"})),
        "/States/A/Parameters/__Private_Parameters: it is a list of names",
    ),
    "catch target": (
        flow(A=changed(ACTION, Catch=[{**CATCH, "Next": "B"}])),
        "/States/A/Catch/0/Next: there is no state 'B'",
    ),
    "catch field": (flow(A=changed(ACTION, Catch=[{**CATCH, "Resultpath": "$"}])), "did you mean 'ResultPath'?"),
    "catch nothing": (
        flow(A=changed(ACTION, Catch=[{**CATCH, "ErrorEquals": []}])),
        "/ErrorEquals: [] should be non-empty",
    ),
    "pass": (
        flow(A={"Type": "Pass", "Parameters": {}, "Result": {}, "Next": "End"}),
        "/States/A: 'Parameters' and 'Result' are there together",
    ),
    "eval": (flow(A=changed(EVAL, "ResultPath")), "/States/A: 'ResultPath' is a required property"),
    "eval field": (flow(A=changed(EVAL, InputPath="$")), "/States/A/InputPath: there is no field 'InputPath' here"),
    "wait": (
        flow(A=changed(WAIT, SecondsPath="$.s")),
        "/States/A: 'Seconds' and 'SecondsPath' are there together; a state has one of them",
    ),
    "wait nothing": (flow(A=changed(WAIT, "Seconds")), "/States/A: one of 'Seconds', 'SecondsPath', 'Timestamp' and"),
    "wait long": (flow(A=changed(WAIT, Seconds=40_000_000)), "/States/A/Seconds: 40000000 is greater than the maximum"),
    "fail": (flow(A={"Type": "Fail", "Error": "x", "ErrorPath": "$.x"}), "'Error' and 'ErrorPath' are there together"),
    "choices": (flow(A={"Type": "Choice", "Choices": []}), "/States/A/Choices: [] should be non-empty"),
    "default": (
        flow(A={"Type": "Choice", "Choices": [RULE], "Default": "B"}),
        "/States/A/Default: there is no state 'B'",
    ),
    "rule next": (
        flow(A={"Type": "Choice", "Choices": [changed(RULE, "Next")]}),
        "/States/A/Choices/0: 'Next' is missing",
    ),
    "no test": (
        flow(A={"Type": "Choice", "Choices": [changed(RULE, "NumericEquals")]}),
        "exactly one test, and there is none",
    ),
    "two tests": (
        flow(A={"Type": "Choice", "Choices": [changed(RULE, IsNull=True)]}),
        "exactly one test, and there are 2: NumericEquals, IsNull; use 'And'",
    ),
    "no variable": (flow(A={"Type": "Choice", "Choices": [{"Next": "End"}]}), "there is no 'Variable' to test"),
    "two kinds": (
        flow(A={"Type": "Choice", "Choices": [{**RULE, "Not": changed(RULE, "Next")}]}),
        "a rule is one of 'And', 'Or', 'Not', or a 'Variable'",
    ),
    "test name": (
        flow(A={"Type": "Choice", "Choices": [{"Variable": "$.n", "NumericEqual": 1, "Next": "End"}]}),
        "did you mean 'NumericEquals'?",
    ),
    "test type": (
        flow(A={"Type": "Choice", "Choices": [changed(RULE, NumericEquals="1")]}),
        "'1' is not of type 'number'",
    ),
    "inner next": (
        flow(A={"Type": "Choice", "Choices": [{"Not": RULE, "Next": "End"}]}),
        "/States/A/Choices/0/Not/Next: 'Next' stands in the outermost rule only",
    ),
    "deep path": (
        flow(A={"Type": "Choice", "Choices": [{"And": [{"Or": [{"Variable": "$.", "IsNull": True}]}], "Next": "End"}]}),
        "/States/A/Choices/0/And/0/Or/0/Variable: '$.', character 3",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_with_its_place(case: str) -> None:
    definition, expected = WRONG[case]

    assert any(expected in each for each in told(definition)), told(definition)


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    text = textwrap.dedent("""\
        {
          "StartAt": "First",
          "States": {
            "First": {
              "Type": "Action",
              "ActionUrl": "https://provider.example.org",
              "Parameters": {
                "x.=": "1 +"
              },
              "WaitTme": 5,
              "Next": "Lost"
            },
            "Second": {"Type": "Pass", "End": true, "Next": "First"}
          }
        }
        """)
    with pytest.raises(DefinitionInvalid) as caught:
        Flow.parse(text)

    assert [(each.line, each.pointer) for each in caught.value.problems] == [
        (8, "/States/First/Parameters/x.="),
        (10, "/States/First/WaitTme"),
        (11, "/States/First/Next"),
        (13, "/States/Second"),
        (13, "/States/Second"),
    ]
    assert "line 11, /States/First/Next: there is no state 'Lost'" in str(caught.value)


def test_yaml_is_read_and_its_lines_are_known() -> None:
    good = textwrap.dedent("""\
        StartAt: A
        States:
          A:
            Type: Wait
            Timestamp: 2026-05-01T12:00:00Z
            Next: B
          B: {Type: Pass, End: true}
        """)
    read = Flow.parse(good)
    assert read.definition["States"]["A"]["Timestamp"] == "2026-05-01T12:00:00Z"

    with pytest.raises(DefinitionInvalid, match="line 6, /States/A/Next: there is no state 'C'"):
        Flow.parse(good.replace("Next: B", "Next: C"))
    with pytest.raises(DefinitionInvalid, match="put it in quotes"):
        Flow.parse(good.replace("B: {", "on: {").replace("Next: B", "Next: on"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"StartAt": "A",\n "States": {}', "line 2"),
        ('{"StartAt": "A",\n "StartAt": "B", "States": {}}', "line 2, /StartAt: the key 'StartAt' is there twice"),
        ("a: 1\nb: [\n", "neither JSON nor YAML"),
        ("a: 1\na: 2\n", "line 2, /a: the key 'a' is there twice"),
        ("just a text", "a definition is an object"),
        ("[1]", "a definition is an object"),
        ("a: &a [1, *a]\n", "aliases that lead in a circle"),
        ("{" * 20_000, "cannot be used"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(DefinitionInvalid) as caught:
        Flow.parse(text)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    "state",
    [
        {"Type": "CreateWebInput", "Parameters": {}, "Next": "End"},
        {"Type": "AwaitWebInput", "InputPath": "$.x", "Next": "End"},
        changed(ACTION, "ActionUrl", Handler={"Type": "RegisteredAPI", "Id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}),
        changed(ACTION, "ActionUrl", Handler="urn:globus:flows:handle:globus:transfer.get_task"),
    ],
)
def test_what_lives_in_the_service_alone_is_valid_and_does_not_run_here(state: dict[str, Any]) -> None:
    definition = flow(A=state)

    assert told(definition) == []
    assert len(told(definition, Severity.UNSUPPORTED)) == 1
    with pytest.raises(DefinitionInvalid, match="unsupported"):
        Flow.of(definition)


def test_a_comment_may_be_null_as_gladier_writes_it() -> None:
    assert told({**flow(A=changed(ACTION, Comment=None)), "Comment": None}) == []
    assert told(flow(A=changed(ACTION, Comment=5))) != []


def test_traps_are_doubts_and_no_errors() -> None:
    definition = flow(
        A=changed(
            ACTION,
            "ResultPath",
            ActionUrl="http://127.0.0.1:8742/actions/compute/v3",
            Catch=[{"ErrorEquals": ["ActionFailed"], "Next": "End"}],
            Parameters={"x.=": "a.items[0]"},
        )
    )

    assert told(definition) == []
    doubts = told(definition, Severity.WARNING)
    for words in (
        "/States/A/ActionUrl: the Flows service takes https:// only",
        "/States/A: without 'ResultPath' the result replaces the whole state",
        "/States/A/Catch/0: without 'ResultPath' the exception replaces the whole state",
        "/States/A/Catch/0/ErrorEquals/0: nothing raises 'ActionFailed'; did you mean 'ActionFailedException'?",
        "/States/A/Parameters/x.=: '.items' is also the name of a method",
    ):
        assert any(each.startswith(words) for each in doubts), doubts
    assert len(Flow.of(definition).warnings) == 5


NAMES = flow(
    A=changed(
        ACTION, Parameters={"x.$": "$.nn", "y.=": "a + b.c + getattr('d', 0) + (e if is_present('e') else 0)"}, Next="B"
    ),
    B={
        "Type": "Choice",
        "Choices": [
            {
                "And": [{"Variable": "$.f", "IsPresent": True}, {"Variable": "$.f", "StringEqualsPath": "$.g"}],
                "Next": "C",
            },
            {"Not": {"Variable": "$.A.status", "IsNull": True}, "Next": "C"},
        ],
        "Default": "End",
    },
    C={"Type": "ExpressionEval", "Parameters": {"z.=": "[h for h in n]"}, "ResultPath": "$.b", "Next": "End"},
)


def test_names_that_nothing_puts_into_the_state_are_doubted_where_the_input_is_known() -> None:
    def doubted(given: set[str] | None, definition: Any = NAMES) -> list[str]:
        found = problems_of(Written(definition), given=given)
        assert not any(each.severity is Severity.ERROR for each in found)
        return [
            f"{each.pointer.rpartition('/')[2]}: {each.problem}" for each in found if "nothing puts" in each.problem
        ]

    assert doubted({"n"}) == [
        "x.$: nothing puts 'nn' into the state; did you mean 'n'?",
        "y.=: nothing puts 'a' into the state; did you mean 'A'?",
        "StringEqualsPath: nothing puts 'g' into the state",
    ]
    assert doubted({"n", "nn", "a", "g"}) == []
    assert doubted(None) == []
    # What replaces the whole state may put anything there.
    whole = json.loads(json.dumps(NAMES))
    whole["States"]["C"]["ResultPath"] = "$"
    assert doubted({"n"}, whole) == []


def test_the_names_of_an_input_are_its_own_or_those_of_a_closed_schema() -> None:
    schema = {"properties": {"a": {}}, "additionalProperties": False}

    assert names_given({"b": 1}, schema) == {"b"}
    assert names_given(None, schema) == {"a"}
    assert names_given(None, {"properties": {"a": {}}}) is None
    assert names_given(None, None) is None


def test_an_input_is_held_against_its_schema() -> None:
    schema = Written({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}, "schema.json")

    assert problems_of_input(schema) == ()
    assert problems_of_input(schema, {"n": 1, "_tokens": {"Admin": "t"}}, given=True) == ()
    assert [each.pointer for each in problems_of_input(schema, {"n": "x"}, given=True)] == ["/n"]
    assert "type" in problems_of_input(read_text('{"type": "objekt"}', name="schema.json"))[0].pointer
    with pytest.raises(DefinitionInvalid, match="the input"):
        Flow.of(flow()).check_input({}, schema)
    with pytest.raises(DefinitionInvalid, match="is an object"):
        Flow.of(flow()).check_input([1], None)


EXAMPLES = sorted(
    each
    for each in (Path(__file__).parents[2] / "examples" / "flows").iterdir()
    if each.suffix in (".json", ".yaml") and "StartAt" in each.read_text()
)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_have_no_mistakes(file: Path) -> None:
    read = Flow.read(file)

    validate("flow-definition", dict(read.definition))
    schema = file.with_suffix(".schema.json")
    if schema.exists():
        given = names_given(None, json.loads(schema.read_text()))
        assert given is not None
        assert not any("nothing puts" in each.problem for each in problems_of(Written(read.definition), given=given))
    # They name providers of this machine.
    assert {each.problem for each in read.warnings} <= {"the Flows service takes https:// only"}


def test_a_flow_has_an_id_that_its_definition_decides() -> None:
    same = json.loads(json.dumps(flow()))

    assert Flow.of(flow()).flow_id == Flow.of(same).flow_id
    assert Flow.of(flow()).flow_id != Flow.of(flow(B=END, A=changed(ACTION, Next="B", Catch=[CATCH]))).flow_id


WORDS = (
    *("StartAt", "States", "A", "Type", "Next", "End", "Choices", "Catch", "Parameters", "x.$", "x.=", "And", "Not"),
    *("Variable", "IsNull", "Handler", "ActionUrl", "ResultPath", "Default", "ErrorEquals"),
)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["A", "End", "$", "$.x", "Action", "Choice", "Pass", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=25,
)


@given(ANY)
def test_any_document_is_taken_or_its_problems_are_told(document: Any) -> None:
    for problem in problems_of(Written(document), given={"x"}):
        assert problem.sentence()


@given(st.dictionaries(st.sampled_from(["A", "End"]), ANY, min_size=1))
def test_any_states_are_taken_or_their_problems_are_told(states: Any) -> None:
    for problem in problems_of(Written({"StartAt": "A", "States": states}), given={"x"}):
        assert problem.sentence()
