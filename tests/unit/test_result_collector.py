"""Results come in parts, in any order, some twice, some forged: readers see each task's result once, the first one."""

from __future__ import annotations

import itertools
from uuid import UUID

import cloudpickle
import pytest

from headrace.bus.data import values
from headrace.bus.data.encodings import CLOUDPICKLE, JSON, MSGPACK
from headrace.bus.data.failures import capture, encode_failure, of_error
from headrace.bus.data.json_values import encode_json
from headrace.bus.errors import SignatureInvalid, TaskCancelled
from headrace.bus.names import Address
from headrace.bus.nats.message import Message
from headrace.bus.tasks.bundles import ResultPart, Runtime, TaskResult, encode_part
from headrace.bus.tasks.control import Control, cancel_tasks, decode_control, encode_control
from headrace.bus.tasks.plain_results import plain_result, result_document
from headrace.bus.tasks.results import ResultCollector, StoredPart, live_part

KEY = b"k" * 32
RUNTIME = Runtime(python="3.11.0", headrace="0.1.0")
ADDRESS = Address(
    endpoint=UUID(int=1), pool="default", principal="urn:headrace:user:ada", group=UUID(int=2), bundle=UUID(int=3 << 16)
)


def result(index: int, value: object = None) -> TaskResult:
    return TaskResult(index, "succeeded", JSON, encode_json(value))


def part(number: int, *indices: int, total: int = 4) -> StoredPart:
    return StoredPart(
        number=number, part=ResultPart(results=[result(i, number) for i in indices], total=total, runtime=RUNTIME)
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_in_which_parts_come_does_not_matter(order: tuple[int, ...]) -> None:
    parts = [part(0, 0, 1), part(1, 2), part(2, 3)]
    collector = ResultCollector(ADDRESS, KEY)

    given = [each.index for number in order for each in collector.add(parts[number])]

    assert given == [0, 1, 2, 3]
    assert collector.complete
    assert collector.next_part == 3
    assert not collector.gap


def test_a_part_waits_for_the_ones_before_it() -> None:
    collector = ResultCollector(ADDRESS, KEY)

    assert collector.add(part(1, 2, 3)) == []
    assert collector.gap
    assert not collector.complete


def test_each_result_is_given_once_and_the_first_one_stays() -> None:
    collector = ResultCollector(ADDRESS, KEY, total=2)

    first = collector.add(part(0, 0, total=2))
    doubled = collector.add(part(0, 0, total=2))
    repeated = collector.add(part(1, 0, 1, total=2))

    assert [each.index for each in first] == [0]
    assert doubled == []
    assert [each.index for each in repeated] == [1]
    assert collector.results[0] == result(0, 0)


def test_a_forged_part_counts_as_empty_and_does_not_stop_the_reader() -> None:
    subject = ADDRESS.result_subject(0)
    body = ResultPart(results=[result(0, "forged")], total=1, runtime=RUNTIME)
    collector = ResultCollector(ADDRESS, KEY, total=1)

    forged = live_part(Message(f"stored.{subject}", encode_part(body, subject=subject, key=b"x" * 32)), KEY)
    assert not forged.believed
    assert collector.add(forged) == []
    assert not collector.complete

    collector.add(part(1, 0, total=1))
    assert collector.complete


def test_a_part_is_believed_only_under_the_subject_that_it_was_made_for() -> None:
    body = ResultPart(results=[result(0)], total=1, runtime=RUNTIME)
    message = encode_part(body, subject=ADDRESS.result_subject(0), key=KEY)

    assert live_part(Message(f"stored.{ADDRESS.result_subject(0)}", message), KEY).believed
    assert not live_part(Message(f"stored.{ADDRESS.result_subject(1)}", message), KEY).believed


def test_a_json_result_is_shown_as_it_is() -> None:
    document = result_document(UUID(int=7), result(0, {"mean": 2.5}))

    assert document["state"] == "succeeded"
    assert document["result"] == {"mean": 2.5}


def test_none_is_a_result() -> None:
    assert result_document(UUID(int=7), result(0, None))["result"] is None


def test_a_task_without_result_is_pending() -> None:
    assert result_document(UUID(int=7), None) == {"task_id": str(UUID(int=7)), "state": "pending"}


class Trap:
    """Unpickling it fails the test."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("the service unpickled a result",)


def test_a_python_object_is_never_unpickled_here() -> None:
    tag, data = CLOUDPICKLE, cloudpickle.dumps(Trap())

    plain = plain_result(TaskResult(0, "succeeded", tag, data))

    assert plain.value is None
    assert "Python object (cloudpickle)" in plain.python_object
    assert "reload_tasks" in plain.python_object


def test_bytes_of_a_python_caller_are_not_passed_off_as_json() -> None:
    tag, data = values.encode(b"\x00\x01")

    plain = plain_result(TaskResult(0, "succeeded", tag, data))

    assert tag == MSGPACK
    assert "bytes" in plain.python_object


def test_an_error_is_shown_with_type_message_and_traceback() -> None:
    try:
        raise ZeroDivisionError("division by zero")
    except ZeroDivisionError as error:
        tag, data = encode_failure(capture(error))

    error_document = result_document(UUID(int=7), TaskResult(0, "failed", tag, data))["error"]

    assert error_document["code"] == "TaskFailed"
    assert error_document["type"] == "ZeroDivisionError"
    assert error_document["message"] == "division by zero"
    assert "Traceback" in error_document["traceback"]


def test_a_cancelled_task_says_so() -> None:
    tag, data = encode_failure(of_error(TaskCancelled("it was cancelled before it started")))

    document = result_document(UUID(int=7), TaskResult(0, "cancelled", tag, data))

    assert document["state"] == "cancelled"
    assert document["error"]["code"] == "TaskCancelled"


def test_an_unreadable_failure_is_still_an_error() -> None:
    document = result_document(UUID(int=7), TaskResult(0, "failed", MSGPACK, b"\xff"))

    assert document["error"]["code"] == "TaskFailed"


def test_cancellations_add_up_and_force_stays_with_its_tasks() -> None:
    control = cancel_tasks([1]).merged(cancel_tasks([2], force=True))

    assert [control.cancels(index) for index in (0, 1, 2)] == [False, True, True]
    assert [control.forces(index) for index in (0, 1, 2)] == [False, False, True]
    assert control.merged(cancel_tasks(None)).cancels(99)
    assert not control.merged(cancel_tasks(None)).forces(99)


def test_a_cancellation_is_believed_only_from_the_service_and_for_its_bundle() -> None:
    subject = ADDRESS.control_subject
    message = encode_control(cancel_tasks(None, force=True), subject=subject, pool_secret=KEY)

    assert decode_control(message, subject=subject, pool_secret=KEY) == Control(None, None)
    with pytest.raises(SignatureInvalid):
        decode_control(message, subject=subject, pool_secret=b"x" * 32)
    with pytest.raises(SignatureInvalid):
        decode_control(message, subject=subject + "0", pool_secret=KEY)
