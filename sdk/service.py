"""The service, as far as a session and its channels need it."""

from __future__ import annotations

from typing import Any, Protocol

from headrace.bus.network import Network
from headrace.bus.tasks.bundles import FunctionUse
from headrace.sdk.payloads import ObjectService


class Service(ObjectService, Protocol):
    """What a session asks of the service (see `headrace.sdk.Client`). Each call may take its time; any thread."""

    @property
    def network(self) -> Network: ...

    def open_session(
        self, endpoint_id: Any, user_endpoint_config: dict[str, Any] | None, wanted: bool = True, environment: str = ""
    ) -> dict[str, Any]: ...

    def grant_function(self, endpoint_id: Any, function_id: Any, pool: str | None = None) -> FunctionUse: ...

    def cancel_group(self, task_group_id: Any, task_ids: Any = None, *, force: bool = False) -> Any: ...

    def get_task(self, task_id: Any) -> Any: ...

    def get_endpoint_queue(self, endpoint_id: Any) -> Any: ...
