"""What an executor is set to: where tasks go, what they need, in which forms values travel; checked when it is set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from headrace.bus.tasks import options
from headrace.bus.tasks.bundles import TaskOptions
from headrace.sdk import arguments
from headrace.sdk.serialize import ComputeSerializer, Strategy, only_json


class Settings:
    """What stands behind the attributes of an `Executor`. `_ways` are those to pools that were found with them: what
    they depend on puts an empty table there when it is set."""

    _ways: dict[UUID, Any]
    _endpoint_id: UUID | None
    _task_group_id: UUID
    _resource_specification: dict[str, Any] | None
    _user_endpoint_config: dict[str, Any] | None
    _serializer: ComputeSerializer | None
    _result_serializers: Iterable[Strategy] | None
    _json_results: bool

    @property
    def endpoint_id(self) -> UUID | None:
        """Where the next task runs. Raises `ValueError` when set to what is not a UUID."""
        return self._endpoint_id

    @endpoint_id.setter
    def endpoint_id(self, value: UUID | str | None) -> None:
        self._endpoint_id = arguments.uuid_or_none(value, "endpoint_id")
        self._ways = {}

    @property
    def task_group_id(self) -> UUID:
        """The group of this executor's tasks. Raises `ValueError` when set to what is not a UUID."""
        return self._task_group_id

    @task_group_id.setter
    def task_group_id(self, value: UUID | str) -> None:
        self._task_group_id = arguments.as_uuid(value, "task_group_id")
        self._ways = {}

    @property
    def resource_specification(self) -> dict[str, Any] | None:
        """What a task needs; sent with each task. Raises `TypeError` when set to what JSON cannot carry.

        For an `MPIFunction` it has `num_nodes`, `ranks_per_node`, `num_ranks` and `launcher_options`, of which
        `ValueError` names one that cannot be.
        """
        return self._resource_specification

    @resource_specification.setter
    def resource_specification(self, value: dict[str, Any] | None) -> None:
        options.with_resources(TaskOptions(), value)
        self._resource_specification = value

    @property
    def user_endpoint_config(self) -> dict[str, Any] | None:
        """How the endpoint configures the pool. Raises `TypeError` when set to what JSON cannot carry."""
        return self._user_endpoint_config

    @user_endpoint_config.setter
    def user_endpoint_config(self, value: dict[str, Any] | None) -> None:
        self._user_endpoint_config = arguments.json_dict(value, "user_endpoint_config")
        self._ways = {}

    @property
    def serializer(self) -> ComputeSerializer | None:
        """How functions and arguments are written; None is Headrace's own way. Raises `TypeError` for another thing."""
        return self._serializer

    @serializer.setter
    def serializer(self, value: ComputeSerializer | None) -> None:
        if value is not None and not isinstance(value, ComputeSerializer):
            raise TypeError(f"serializer must be a ComputeSerializer or None, not {type(value).__name__}")
        self._serializer = value

    @property
    def result_serializers(self) -> Iterable[Strategy] | None:
        """How results are written: with `JSONData` alone as JSON. Raises `TypeError`, `ValueError` for no strategy."""
        return self._result_serializers

    @result_serializers.setter
    def result_serializers(self, value: Iterable[Strategy] | None) -> None:
        value = None if value is None else list(value)
        self._json_results = only_json(value)
        self._result_serializers = value
