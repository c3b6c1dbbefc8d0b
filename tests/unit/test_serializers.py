"""Strategies by the names that Globus Compute's users know, and what an endpoint may allow of them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from headrace.bus.data.arguments import encode_arguments
from headrace.bus.data.encodings import CLOUDPICKLE, JSON, MSGPACK, OBJECT, PICKLE
from headrace.bus.data.failures import Failure, capture, encode_failure, rebuild
from headrace.bus.data.payloads import Large, Part
from headrace.bus.errors import FunctionUnusable, SerializerNotAllowed, TaskFailed
from headrace.bus.functions.code import FunctionCode, from_function
from headrace.bus.functions.serializers import ALL, Allowed
from headrace.bus.tasks import bundles
from headrace.endpoint.worker.calls import Calls
from headrace.endpoint.worker.frames import REFUSED, SUCCEEDED
from headrace.sdk.future import TaskFuture
from headrace.sdk.outcomes import settle
from headrace.sdk.serialize import (
    STRATEGIES,
    CodeStrategy,
    ComputeSerializer,
    DillCode,
    DillCodeSource,
    DillDataBase64,
    JSONData,
    only_json,
)

PLAIN = Allowed.of(["globus_compute_sdk.serialize.JSONData", "DillCodeSource"])


def double(x: Any) -> Any:
    return 2 * x


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_names_of_strategies_mean_forms() -> None:
    assert Allowed.of([]) == ALL
    assert Allowed.of(["JSONData"]) == Allowed(ALL.code, frozenset({"plain"}))
    assert Allowed.of(["globus_compute_sdk.*Code", "globus_compute_sdk.*Data"]) == ALL
    assert Allowed.of(["DillCodeSource", "DillCode"]).code == ALL.code
    with pytest.raises(ValueError, match="did you mean 'JSONData'"):
        Allowed.of(["JsonData"])


def test_pickles_are_refused_before_anything_of_them_is_read(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    calls = Calls(1_000_000, None, None, 1_000_000, PLAIN)
    bomb = pickle.dumps(Bomb(mark))
    calls.learn([(1, from_function(double)), (2, FunctionCode("bomb", pickled=bomb))], forget=False)
    part = Part([0], bytes(32), 3, PICKLE)

    good = calls.run(1, *encode_arguments((4,), {}), False)
    refused = [
        calls.run(1, PICKLE, bomb, False),
        calls.run(1, CLOUDPICKLE, bomb, False),
        calls.run(1, OBJECT, Large(MSGPACK, b"\x92\x91\xc0\x80", [part]).encode(), False),
        calls.run(1, OBJECT, Large(PICKLE, bomb, [Part([0], bytes(32), 3, JSON)]).encode(), False),
        calls.run(2, *encode_arguments((), {}), False),
        calls.run(1, 77, b"", False),
    ]

    assert good[0] == SUCCEEDED
    assert [outcome[0] for outcome in refused] == [REFUSED] * 6
    assert all(b"SerializerNotAllowed" in outcome[2] and b"allowed_serializers" in outcome[2] for outcome in refused)
    assert not mark.exists()
    careless = Calls(1_000_000, None, None, 1_000_000)
    careless.learn([(1, from_function(double))], forget=False)
    careless.run(1, PICKLE, bomb, False)
    assert mark.exists()


def test_a_function_is_read_in_the_form_that_is_allowed() -> None:
    code = from_function(double)

    assert PLAIN.of_code(code).pickled == b""
    assert Allowed.of(["DillCode"]).of_code(code).source == ""
    with pytest.raises(SerializerNotAllowed, match="brings modules"):
        Allowed.of(["DillCode"]).of_code(FunctionCode("f", pickled=code.pickled, modules=b"x"))
    with pytest.raises(SerializerNotAllowed, match=r"by its source only.*register it with DillCode"):
        Allowed.of(["DillCode"]).of_code(FunctionCode("f", source="def f(): pass", entry_point="f"))


def test_every_strategy_writes_what_it_reads() -> None:
    for kind in STRATEGIES.values():
        is_code = issubclass(kind, CodeStrategy)
        serializer = ComputeSerializer(strategy_code=kind) if is_code else ComputeSerializer(strategy_data=kind)
        function, args, kwargs = serializer.check_strategies(double, 1, x=[2])
        assert (function(2), args, kwargs) == (4, [1], {"x": [2]})


def test_strategies_are_given_as_instances_classes_or_names() -> None:
    for given in (JSONData(), JSONData, "JSONData", "globus_compute_sdk.serialize.concretes.JSONData"):
        assert ComputeSerializer(strategy_data=given).data_serializer == JSONData()
        assert only_json([given])
    assert not only_json([JSONData, DillDataBase64])
    assert not only_json(None)
    with pytest.raises(TypeError, match=r"is not one of .*DillDataBase64"):
        ComputeSerializer(strategy_data=DillCode)
    with pytest.raises(ValueError, match="no serialisation strategy"):
        ComputeSerializer(strategy_code="Marshal")


def test_a_function_that_a_strategy_cannot_carry_is_refused() -> None:
    by_source = ComputeSerializer(strategy_code=DillCodeSource)

    assert by_source.code(from_function(double)).pickled == b""
    assert ComputeSerializer(strategy_code=DillCode).code(from_function(double)).source == ""
    with pytest.raises(FunctionUnusable, match="by their source"):
        by_source.code(FunctionCode("f", pickled=b"x"))


def test_what_is_not_allowed_here_is_not_read(tmp_path: Path) -> None:
    careful = ComputeSerializer(allowed_deserializer_types=[JSONData, DillCodeSource])

    with pytest.raises(SerializerNotAllowed):
        careful.deserialize(ComputeSerializer().serialize({1, 2}))
    with pytest.raises(SerializerNotAllowed):
        careful.deserialize(b"pickle\n" + pickle.dumps(Bomb(tmp_path / "exploded")))
    assert careful.deserialize(ComputeSerializer(strategy_data=JSONData).serialize((1, 2))) == [1, 2]
    assert not (tmp_path / "exploded").exists()


def test_a_client_that_takes_no_pickles_reads_none(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(mark))
    failure = Failure("TaskFailed", "some.module", "Odd", "it broke", "a traceback", PICKLE, bomb)

    outcomes = [
        _settled(bundles.TaskResult(0, "succeeded", PICKLE, bomb)),
        _settled(bundles.TaskResult(0, "failed", *encode_failure(failure))),
        _settled(bundles.TaskResult(0, "failed", *encode_failure(capture(ValueError("no"))))),
    ]

    assert [type(error) for error in outcomes] == [SerializerNotAllowed, TaskFailed, ValueError]
    assert not mark.exists()
    rebuild(failure)
    assert mark.exists()


def _settled(result: bundles.TaskResult) -> BaseException | None:
    future = TaskFuture()
    future._plain_only = True
    settle(future, result)
    return future.exception()
