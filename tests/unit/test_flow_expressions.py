"""Expressions: what they compute, what they refuse before a run, and what they cannot do to the machine."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.sdk.flows import ExpressionFailed, ExpressionInvalid, StateFailed
from headrace.sdk.flows.evaluator import pathsplit
from headrace.sdk.flows.expressions import doubts_about, evaluate, problem_of
from headrace.sdk.flows.parameters import evaluated, shown_parameters, shown_state

STATE: dict[str, Any] = {
    "foo": "bar",
    "n": 4,
    "list_val": [1, 2, 3],
    "object_val": {"sub_val1": "embedded", "items": [7], "deep": {"x": [{"y": 1}]}},
    "files": [{"name": "a"}, {"name": "b"}],
    "path": "/~/data/",
    "_context": {"run_id": "r-1"},
}

VALUES = {
    "n + 1": 5,
    "n / 8": 0.5,
    "foo + ' ' + object_val.sub_val1": "bar embedded",
    "list_val + [4]": [1, 2, 3, 4],
    "list_val[0] * 2": 2,
    "list_val[-1]": 3,
    "list_val[1:]": [2, 3],
    "object_val['sub_val1']": "embedded",
    "object_val.deep.x[0].y": 1,
    "'big' if n > 3 else 'small'": "big",
    "n == 4 and foo != 'x'": True,
    "3 in list_val": True,
    "not n": False,
    "str(object_val.deep.x[0].y)": "1",
    "int('7') + float('0.5')": 7.5,
    "is_present('foo')": True,
    "is_present('object_val.deep.x[0].y')": True,
    "is_present('object_val.nothing')": False,
    "getattr('foo', 10)": "bar",
    "getattr('nothing', 10)": 10,
    "getattr('nothing')": None,
    "pathsplit('/foo/bar/blech')": ["/foo/bar", "blech"],
    "pathsplit('/~/path')[0]": "/~/",
    "_context.run_id": "r-1",
    "f'{foo}-{n:03d}'": "bar-004",
    "foo.upper().replace('B', 'C')": "CAR",
    "'-'.join(['a', 'b'])": "a-b",
    # As the public example of a transfer in batches has it.
    "[{'p': path.rstrip('/') + '/' + item.name} for item in files]": [{"p": "/~/data/a"}, {"p": "/~/data/b"}],
    "[x for x in list_val if x > 1]": [2, 3],
    "{'a': n, **object_val.deep}": {"a": 4, "x": [{"y": 1}]},
    "object_val.get('nothing', 'd')": "d",
    "(1, 2)": [1, 2],
    # A key goes before the method of its name.
    "object_val.items[0]": 7,
    # An older spelling.
    "'x ' + `$.object_val.sub_val1`": "x embedded",
    "2 ** 10 % 1000": 24,
    # A line break within a text, as a flow of the Materials Data Facility has it.
    "'a:\n' + foo": "a:\nbar",
}


@pytest.mark.parametrize("text", VALUES)
def test_an_expression_has_its_value(text: str) -> None:
    assert problem_of(text) is None
    assert evaluate(text, STATE) == VALUES[text]


REFUSED = {
    "": "character",
    "a +": "character",
    "a = 1": "character",
    "import os": "character",
    "lambda: 1": "a lambda",
    "(x := 1)": "an assignment",
    "{1, 2}": "a set",
    "len(x)": "no function 'len'",
    "pathsplitt('a')": "did you mean 'pathsplit'?",
    "open('/etc/passwd')": "no function 'open'",
    "__import__('os')": "no function '__import__'",
    "eval('1')": "no function 'eval'",
    "foo.__class__": "do not begin with '_'",
    "foo.__class__.__mro__[1].__subclasses__()": "'__subclasses__'",
    "foo.format(1)": "no method 'format'",
    "foo.encode()": "no method 'encode'",
    "foo.ljust(10**9)": "no method 'ljust'",
    "list_val.append(1)": "no method 'append'",
    "foo.uper()": "did you mean 'upper'?",
    "(foo)()()": "only functions and methods",
    "b'x'": "nothing that JSON has",
    "1j": "nothing that JSON has",
    "x == true": "written True",
    "`$.x` +": "character",
    "(" * 500 + ")" * 500: "nested",
    "1+" * 6000 + "1": "at most 10000",
    "'\x00'": "null bytes",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_expressions_have_not_is_refused_before_a_run(text: str) -> None:
    problem = problem_of(text)

    assert problem is not None
    assert REFUSED[text] in problem
    assert len(problem) < 600
    with pytest.raises(ExpressionInvalid):
        evaluate(text, STATE)


FAILED = {
    "nothing + 1": "there is no 'nothing'",
    "object_val.nothing": "there is no 'nothing'",
    "object_val['nothing']": "there is no 'nothing'",
    "list_val[9]": "out of range",
    "n / 0": "division by zero",
    "n + foo": "unsupported operand",
    "foo.upper": "JSON does not have",
    "object_val.keys": "JSON does not have",
    "str": "JSON does not have",
    "{1: 2}": "is no text",
    "float('nan')": "no number nan",
    "1e308 * 10": "no number inf",
    "foo.deep": "there is no 'deep'",
    "is_present(5)": "is a text",
    "'%1000000000d' % 1": "not with %",
    "f'{n:1000000000}'": "no format",
    "f'{n:{object_val.deep}}'": "no format",
}

BOMBS = {
    "9 ** 9 ** 9": "too large",
    "2 ** 2000000": "too large",
    "1 << 2000000": "too large",
    "'a' * 10 ** 9": "more than",
    "[0] * 10 ** 9": "more than",
    "[[0] * 100000 for x in [0] * 1000]": "more than",
    "('a' * 100000).replace('a', 'b' * 100000)": "more than",
    "('a' * 100000).join(['b'] * 10000)": "more than",
    "[[y for y in [0] * 1000] for x in [0] * 1000]": "too many",
    "[x for x in 'a' * 100000]": "too many",
    "+".join(["(n)"] * 2000): "",
    "str(10 ** 5000)": "",
}


@pytest.mark.parametrize("text", [*FAILED, *BOMBS])
def test_what_goes_wrong_is_told_in_words(text: str) -> None:
    expected = {**FAILED, **BOMBS}[text]
    if not expected:
        try:
            evaluate(text, STATE)
        except ExpressionFailed:
            return
        return
    with pytest.raises(ExpressionFailed) as caught:
        evaluate(text, STATE)

    assert expected in str(caught.value)
    assert len(str(caught.value)) < 600


@given(st.text(max_size=40))
def test_any_text_has_a_value_or_is_refused(text: str) -> None:
    with contextlib.suppress(ExpressionInvalid, ExpressionFailed):
        evaluate(text, {"a": 1})


def test_an_expression_changes_nothing() -> None:
    state = {"a": {"b": [1]}}
    for text in ("a.b + [2]", "[x for x in a.b]", "dict(a)", "list(a.b)"):
        evaluate(text, state)

    assert state == {"a": {"b": [1]}}


def test_a_key_that_is_called_like_a_method_is_doubted() -> None:
    assert list(doubts_about("object_val.items[0]")) != []
    assert list(doubts_about("object_val.items()")) == []
    assert list(doubts_about("object_val['items'][0]")) == []


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/foo/bar/blech", ["/foo/bar", "blech"]),
        ("/~/path", ["/~/", "path"]),
        ("/path", ["/", "path"]),
        ("path", ["", "path"]),
        ("/~/", ["/~/", ""]),
        ("/", ["/", ""]),
        ("/a/b/", ["/a", "b"]),
        ("/~/a/b", ["/~/a", "b"]),
    ],
)
def test_a_path_is_split(path: str, parts: list[str]) -> None:
    assert pathsplit(path) == parts


def test_parameters_are_constants_paths_and_expressions_at_any_depth() -> None:
    parameters = {
        "constant": 10,
        "reference.$": "$.object_val.sub_val1",
        "computed.=": "n + 1",
        "nested": {"deep.$": "$.n", "list": [{"each.=": "foo"}, 5, ["$.n"]]},
        "not.a.$.reference": "$.n",
        "__Private_Parameters": ["constant"],
    }

    value = evaluated(parameters, STATE)

    assert value == {
        "constant": 10,
        "reference": "embedded",
        "computed": 5,
        "nested": {"deep": 4, "list": [{"each": "bar"}, 5, ["$.n"]]},
        "not.a.$.reference": "$.n",
    }


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"k.$": "$.x"}, "The path '$.x' specified for the field 'k.$' could not be found in the state input."),
        ({"a": [{"k.=": "x + 1"}]}, "The expression of the field 'k.=' cannot be evaluated"),
    ],
)
def test_what_is_missing_is_an_exception_in_the_services_words(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(StateFailed) as caught:
        evaluated(parameters, {})

    assert caught.value.name == "States.Runtime"
    assert words in caught.value.cause


def test_what_is_private_is_not_shown() -> None:
    parameters = {
        "secret.$": "$.n",
        "open": 1,
        "server": {"password": "p", "url": "u", "__Private_Parameters": ["password"]},
        "list": [{"token.=": "n", "__Private_Parameters": ["token.="]}],
        "__Private_Parameters": ["secret"],
    }

    shown = shown_parameters(parameters, evaluated(parameters, STATE))

    assert shown == {"open": 1, "server": {"url": "u"}, "list": [{}]}
    assert shown_state({"_private": 1, "_private_x": 2, "a": [{"_private": 3, "b": 4}]}) == {"a": [{"b": 4}]}


CONSTANTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text("abc_", max_size=3).filter(lambda key: key != "__Private_Parameters"), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(CONSTANTS)
def test_constants_are_what_they_are(value: Any) -> None:
    assert evaluated(value, {}) == value


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=4), CONSTANTS, max_size=5))
def test_references_and_names_find_the_same(state: dict[str, Any]) -> None:
    for name, value in state.items():
        assert evaluated({"x.$": f"$.{name}", "y.=": f"getattr('{name}')"}, state) == {"x": value, "y": value}
