"""Options of tasks: said per executor and per call, checked where they are said."""

from __future__ import annotations

import concurrent.futures
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.tasks.bundles import TaskOptions
from headrace.bus.tasks.options import OPTION_NAMES, changed, of_document
from headrace.schemas import SchemaViolation, schema, validate
from headrace.sdk import Executor

ENDPOINT = uuid.uuid4()


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("task_timeout_s", 0, ValueError, "more than 0 seconds"),
        ("task_timeout_s", -1.5, ValueError, "more than 0 seconds"),
        ("task_timeout_s", "5", TypeError, "a number of seconds, or None"),
        ("task_timeout_s", True, TypeError, "a number of seconds"),
        ("queue_timeout_s", float("inf"), ValueError, "at most 1,000,000,000 seconds"),
        ("queue_timeout_s", float("nan"), ValueError, "at most 1,000,000,000 seconds"),
        ("queue_timeout_s", 10**400, ValueError, "at most 1,000,000,000 seconds"),
        ("max_retries", -1, ValueError, "from 0 to 100"),
        ("max_retries", 101, ValueError, "from 0 to 100"),
        ("max_retries", 1.0, TypeError, "a whole number"),
        ("max_retries", None, TypeError, "a whole number"),
        ("max_retries", True, TypeError, "a whole number"),
        ("retry_delay_s", -0.1, ValueError, "0 seconds or more"),
        ("retry_delay_s", None, TypeError, "a number of seconds"),
        ("rerun_on_loss", 1, TypeError, "True or False"),
    ],
)
def test_a_wrong_option_is_refused_by_name(name: str, value: Any, error: type[Exception], text: str) -> None:
    with Executor(ENDPOINT) as executor, pytest.raises(error, match=f"^{name} must be {text}"):
        executor.with_options(**{name: value})


def test_an_unknown_option_is_refused_with_the_ones_that_there_are() -> None:
    with pytest.raises(TypeError, match=r"'patience_s' is not an option of tasks; there are task_timeout_s, queue"):
        changed(TaskOptions(), {"patience_s": 1})


def test_a_view_is_the_same_executor_with_other_options() -> None:
    executor = Executor(ENDPOINT, label="mine")

    view = executor.with_options(task_timeout_s=5, max_retries=2)
    again = view.with_options(task_timeout_s=None, rerun_on_loss=False)

    assert isinstance(view, concurrent.futures.Executor)
    assert executor._options() == TaskOptions()
    assert view._options() == TaskOptions(task_timeout_s=5, max_retries=2)
    assert again._options() == TaskOptions(max_retries=2, rerun_on_loss=False)
    assert view.task_group_id == executor.task_group_id
    view.endpoint_id = other = uuid.uuid4()
    assert executor.endpoint_id == again.endpoint_id == other
    executor.resource_specification = {"cores": 2}
    assert view._options().resource_specification == b'{"cores": 2}'
    assert executor.with_options(resource_specification=None)._options().resource_specification == b""
    assert executor.with_options(resource_specification={})._options().resource_specification == b""
    assert view._options().max_retries == 2
    again.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(len, [])


seconds = st.one_of(st.integers(-5, 10**12), st.floats(allow_nan=False), st.none(), st.booleans())
options = st.fixed_dictionaries(
    {},
    optional={
        "task_timeout_s": seconds,
        "queue_timeout_s": seconds,
        "max_retries": st.integers(-3, 200),
        "retry_delay_s": seconds,
        "rerun_on_loss": st.booleans() | st.none(),
    },
)


@given(options)
def test_the_schema_and_python_take_the_same_options(given_options: dict[str, Any]) -> None:
    assert _taken(given_options) == _valid(given_options)


def test_what_json_calls_an_integer_reaches_the_pool_as_one() -> None:
    document = {"max_retries": 2.0, "task_timeout_s": 3, "queue_timeout_s": None}
    validate("task-options", document)

    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(of_document(document)), type=TaskOptions)

    assert sent == TaskOptions(max_retries=2, task_timeout_s=3, json_result=True)


def test_every_option_is_in_the_schema_and_in_the_wire_contract() -> None:
    assert tuple(schema("task-options")["properties"]) == OPTION_NAMES
    assert set(OPTION_NAMES) <= set(TaskOptions.__struct_fields__)


def _taken(given_options: dict[str, Any]) -> bool:
    try:
        changed(TaskOptions(), given_options)
    except (TypeError, ValueError):
        return False
    return True


def _valid(given_options: dict[str, Any]) -> bool:
    try:
        validate("task-options", given_options)
    except SchemaViolation:
        return False
    return True
