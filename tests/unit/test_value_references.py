"""Which values of an action are given by reference."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.action_provider.providers.action_tasks import ActionTask
from headrace.action_provider.providers.outcome import lists_of_values
from headrace.action_provider.providers.task_results import StoredTask
from headrace.action_provider.providers.value_references import REFERENCE_BYTES, References
from headrace.bus.data.encodings import JSON
from headrace.bus.data.failures import encode_failure, of_error
from headrace.bus.data.json_values import encode_json
from headrace.bus.errors import TaskCancelled
from headrace.bus.tasks.bundles import TaskResult

RULE = References(most_bytes=10_000, base_url="https://lab.example.org", kept_s=3600.0)


def tasks_of(*sizes: int | None) -> list[ActionTask]:
    """Tasks with values of these sizes as JSON; None is one that has none."""
    return [
        ActionTask.of(StoredTask(n, uuid.UUID(int=n), _result(size), 1000.0), read=True) for n, size in enumerate(sizes)
    ]


def _result(size: int | None) -> TaskResult:
    if size is None:
        return TaskResult(0, "cancelled", *encode_failure(of_error(TaskCancelled("it was"))))
    return TaskResult(0, "succeeded", JSON, encode_json("x" * (size - 2)))


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(2, 600) | st.integers(2, 12_000), max_size=40))
def test_the_largest_values_go_until_the_rest_fits(sizes: list[int | None]) -> None:
    tasks = RULE.shown(tasks_of(*sizes)).tasks

    shown = [size for task, size in zip(tasks, sizes, strict=True) if task.reference is None and size is not None]
    gone = [size for task, size in zip(tasks, sizes, strict=True) if task.reference is not None and size is not None]
    assert sum(shown) <= RULE.most_bytes or max(shown) <= REFERENCE_BYTES
    # Not one more than it takes, and none that is smaller than one that is shown.
    assert not gone or sum(shown) + min(gone) > RULE.most_bytes
    assert not gone or not shown or min(gone) >= max(shown)
    for task, size in zip(tasks, sizes, strict=True):
        if task.reference is not None:
            assert task.reference["size"] == size
        else:
            assert task.output == (None if size is None else "x" * (size - 2))


def test_a_reference_says_where_the_value_is_and_how_long() -> None:
    tasks = RULE.shown(tasks_of(20_000, 5)).tasks

    large, small = lists_of_values(tasks)["result"]
    assert small == "xxx"
    reference = large["result_reference"]
    assert reference["href"] == f"https://lab.example.org/api/v1/tasks/{uuid.UUID(int=0)}/result"
    assert reference["expires_at"] == "1970-01-01T01:16:40.000Z"


@given(st.lists(st.none() | st.integers(2, 1000), max_size=400), st.sampled_from([0, 500, 5000, 50_000]))
@settings(max_examples=50, deadline=None)
def test_the_lists_are_never_larger_than_three_times_the_limit(sizes: list[int | None], most_bytes: int) -> None:
    rule = dataclasses.replace(RULE, most_bytes=most_bytes)

    shown = rule.shown(tasks_of(*sizes))

    text = json.dumps({**lists_of_values(shown.tasks), **shown.document})
    assert len(text) <= 3 * most_bytes + 2000
    if not shown.whole:
        assert len(shown.tasks) == len(sizes)
        return
    whole = json.loads(shown.whole)
    assert shown.document["results_reference"]["count"] == len(whole) == len(sizes)
    assert shown.document["results_reference"]["sha256"] == hashlib.sha256(shown.whole).hexdigest()
    assert lists_of_values(shown.tasks)["results"] == whole[: len(shown.tasks)]
    assert 0 < len(shown.tasks) < len(sizes)
