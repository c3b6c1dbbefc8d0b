"""Forms of functions, arguments and results, between an executor and an endpoint that reads plain data only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_pool import RunningPool, running_pool
from service import RunningService, running_service

from headrace.sdk import ArgumentNotSerialisable, Client, Executor, ResultNotSerialisable, SerializerNotAllowed
from headrace.sdk.serialize import ComputeSerializer, DillCode, JSONData


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def careful(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    engine = {"type": "ProcessEngine", "allowed_serializers": ["JSONData", "DillCodeSource"]}
    with running_pool(service, tmp_path_factory.mktemp("pool"), engine=engine) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[Client]:
    with Client(service.url, service.token) as made:
        yield made


def double(x: object) -> object:
    return x, x


def test_plain_data_and_source_run_at_a_careful_endpoint(careful: RunningPool, client: Client) -> None:
    with Executor(careful.endpoint_id, client=client) as executor:
        assert executor.submit(double, {"a": [1, b"2"]}).result() == ({"a": [1, b"2"]},) * 2
        with pytest.raises(SerializerNotAllowed, match=r"came as pickle.*reads arguments as plain data only"):
            executor.submit(double, {1, 2}).result()
        executor.serializer = ComputeSerializer(strategy_data=JSONData())
        assert executor.submit(double, (1, 2)).result() == ([1, 2], [1, 2])
        with pytest.raises(ArgumentNotSerialisable, match="argument 1"):
            executor.submit(double, b"bytes").result()
        large = "x" * 5_000_000
        assert executor.submit(len, large).exception() is not None  # `len` is stored by its name, in a pickle
        executor.result_serializers = ["JSONData"]
        assert executor.submit(double, "y").result() == ["y", "y"]


def test_large_json_arguments_go_through_the_object_store(careful: RunningPool, client: Client) -> None:
    large = "x" * 5_000_000

    with Executor(careful.endpoint_id, client=client, serializer=ComputeSerializer(strategy_data=JSONData)) as executor:
        assert executor.submit(double, large).result() == (large, large)


def test_a_pickled_function_is_refused_by_a_careful_endpoint(careful: RunningPool, client: Client) -> None:
    serializer = ComputeSerializer(strategy_code=DillCode)
    with (
        Executor(careful.endpoint_id, client=client, serializer=serializer) as executor,
        pytest.raises(SerializerNotAllowed, match=r"came as a pickle only.*register it with"),
    ):
        executor.submit(double, 1).result()


def test_an_executor_that_takes_no_pickles_gets_json(careful: RunningPool, client: Client) -> None:
    def fails() -> None:
        raise KeyError("nothing")

    with Executor(careful.endpoint_id, client=client, allow_pickle=False) as executor:
        assert executor.submit(double, 1).result() == [1, 1]
        with pytest.raises(KeyError, match="nothing"):
            executor.submit(fails).result()
        with pytest.raises(ResultNotSerialisable, match="given as JSON"):
            executor.submit(double, b"x").result()
        with pytest.raises(TypeError, match="must be a ComputeSerializer"):
            executor.serializer = "JSON"  # type: ignore[assignment]  # what people try
