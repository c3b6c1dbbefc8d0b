"""Bodies of the V2 Compute provider, in every spelling that flows have."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.action_provider.errors import InvalidRequest
from headrace.action_provider.providers.compute_v2 import SCHEMA, read_tasks
from headrace.schemas import validate

HERE, THERE = uuid.UUID(int=1), uuid.UUID(int=2)
ADD, SUM = uuid.UUID(int=3), uuid.UUID(int=4)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def single(**more: Any) -> dict[str, Any]:
    return {"endpoint": str(HERE), "function": str(ADD), **more}


def read(body: dict[str, Any]) -> list[tuple[uuid.UUID, uuid.UUID, list[Any], dict[str, Any]]]:
    # As it comes by HTTP.
    return [
        (task.endpoint, task.function, list(task.args), dict(task.kwargs))
        for task in read_tasks(json.loads(json.dumps(body)))
    ]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([1, "a"], [1, "a"]),
        ([], []),
        (None, []),
        ("", []),
        (7, [7]),
        (0, [0]),
        (False, [False]),
        (31.1, [31.1]),
        ("31x", ["31x"]),
        ("two words", ["two words"]),
        (" padded ", [" padded "]),
        ("31", [31]),
        ("true", [True]),
        ("NaN", ["NaN"]),
        ('"31"', ["31"]),
        ('[1, "a"]', [1, "a"]),
        ("['arg1', 'arg2']", ["arg1", "arg2"]),
        ("[True, None, (1, 2)]", [True, None, (1, 2)]),
        ([{"a": 1}], [{"a": 1}]),
        ('[{"a": 1}]', [{"a": 1}]),
    ],
)
def test_arguments_are_a_list_or_a_single_one_or_text_of_either(args: Any, expected: list[Any]) -> None:
    assert read(single(args=args)) == [(HERE, ADD, expected, {})]


@pytest.mark.parametrize("name", ["kwargs", "payload"])
@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"x": 1}, {"x": 1}),
        ('{"x": [1]}', {"x": [1]}),
        ("{ 'foo': 'bar', 'fuzz': 'buzz' }", {"foo": "bar", "fuzz": "buzz"}),
        (None, {}),
        ("", {}),
        ({}, {}),
    ],
)
def test_arguments_by_name_are_an_object_or_its_text(name: str, kwargs: Any, expected: dict[str, Any]) -> None:
    assert read(single(**{name: kwargs})) == [(HERE, ADD, [], expected)]


@settings(max_examples=50, deadline=None)
@given(args=st.lists(plain, max_size=3), kwargs=st.dictionaries(st.text(), plain, max_size=3))
def test_every_spelling_of_a_call_is_the_same_call(args: list[Any], kwargs: dict[str, Any]) -> None:
    wanted = [(HERE, ADD, args, kwargs)]
    spellings: list[dict[str, Any]] = [
        {"args": args, "kwargs": kwargs},
        {"args": args, "payload": kwargs},
        {"args": json.dumps(args), "kwargs": json.dumps(kwargs)},
        {"args": repr(args), "payload": repr(kwargs)},
    ]
    for spelling in spellings:
        assert read(single(**spelling)) == wanted
        tasks = [single(**spelling)]
        for given_as in (tasks, json.dumps(tasks), tasks[0], json.dumps(tasks[0])):
            assert read({"tasks": given_as}) == wanted


def test_tasks_name_an_endpoint_each() -> None:
    there = {"endpoint": f" {THERE} ", "function": str(SUM), "args": [[1, 2]]}

    assert read({"tasks": [single(args=[1]), there]}) == [(HERE, ADD, [1], {}), (THERE, SUM, [[1, 2]], {})]


def test_a_single_call_comes_before_the_tasks_beside_it() -> None:
    body = single(args="['arg1']", payload="{'foo': 'bar'}", tasks=[single(args="['arg2']")])

    assert read(body) == [(HERE, ADD, ["arg1"], {"foo": "bar"}), (HERE, ADD, ["arg2"], {})]


@pytest.mark.parametrize("tasks", [None, [], "", " "])
def test_no_tasks_beside_a_single_call_are_no_harm(tasks: Any) -> None:
    assert read(single(tasks=tasks)) == [(HERE, ADD, [], {})]


def test_what_a_form_sends_empty_counts_as_absent() -> None:
    body = {"endpoint": "", "function": "", "args": "", "kwargs": {}, "tasks": [single()]}

    assert read(body) == [(HERE, ADD, [], {})]


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({}, "$.endpoint", "or `tasks`"),
        ({"tasks": []}, "$.endpoint", "or `tasks`"),
        ({"endpoint": str(HERE)}, "$.function", "required"),
        ({"function": str(ADD)}, "$.endpoint", "required"),
        (single(endpoint="lab"), "$.endpoint", "'lab' is not a UUID"),
        (single(endpoint=7), "$.endpoint", "not of type"),
        (single(args={"a": 1}), "$.args", "not of type"),
        (single(args='{"a": 1}'), "$.args", "give it as `kwargs`"),
        (single(args="[1, 2"), "$.args", "not JSON"),
        (single(args="[f(1)]"), "$.args", "not JSON"),
        (single(args="[NaN]"), "$.args", "NaN is no number that JSON has"),
        (single(args="[" * 100_000), "$.args", "not JSON"),
        (single(kwargs=[1]), "$.kwargs", "not of type"),
        (single(kwargs="[1]"), "$.kwargs", "an object"),
        (single(payload="{1: 2}"), "$.payload", "an object with names"),
        (single(payload="x=1"), "$.payload", "not JSON"),
        (single(kwargs={"a": 1}, payload={"a": 2}), "$.payload", "one of them"),
        (single(endpoint_id="x"), "$", "endpoint_id"),
        ({"args": [1], "tasks": [single()]}, "$.args", "belongs to"),
        ({"tasks": "five"}, "$.tasks", "not JSON"),
        ({"tasks": "5"}, "$.tasks", "not of type"),
        ({"tasks": '"five"'}, "$.tasks", "list of calls"),
        ({"tasks": [single(), {"function": str(ADD)}]}, "$.tasks[1].endpoint", "required"),
        ({"tasks": json.dumps([single(), {"function": str(ADD)}])}, "$.tasks[1].endpoint", "required"),
        ({"tasks": [single(), single(args="[")]}, "$.tasks[1].args", "not JSON"),
        ({"tasks": [single(function="add")]}, "$.tasks[0].function", "'add' is not a UUID"),
    ],
)
def test_a_refusal_names_the_field_and_the_problem(body: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_tasks(body)

    assert f"Field '{field}'" in str(refused.value)
    assert problem in str(refused.value)


def test_equal_names_for_equal_arguments_are_no_contradiction() -> None:
    assert read(single(kwargs={"a": 1}, payload={"a": 1})) == [(HERE, ADD, [], {"a": 1})]


def test_the_schema_that_clients_see_takes_what_is_taken() -> None:
    for body in (single(args="31x"), single(tasks=json.dumps([single()])), {"tasks": single(payload="{}")}):
        validate(SCHEMA, body)


odd = plain | st.sampled_from(
    ["", " ", "[", "{}", "[{}]", "[1", "(1,)", "{'a': 1}", "b'x'", "{1}", "1e999", "NaN", str(HERE)]
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["endpoint", "function", "args", "kwargs", "payload", "tasks", "other"]),
        odd | st.lists(st.dictionaries(st.sampled_from(["endpoint", "function", "args", "kwargs"]), odd), max_size=2),
    )
)
def test_whatever_a_body_is_it_is_calls_or_refused(body: dict[str, Any]) -> None:
    try:
        tasks = read_tasks(body)
    except InvalidRequest as error:
        refused = str(error)
        tasks = []
    else:
        refused = ""
    assert bool(tasks) != bool(refused)
    assert not refused or refused.startswith("Field '$")
