"""The Compute providers: an action runs functions on endpoints. They take the bodies of Globus Compute's providers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.providers import compute_v2
from headrace.action_provider.providers.provider import Description, ProviderAddress
from headrace.action_provider.providers.requests import ActionRequest, check_body
from headrace.action_provider.providers.task_actions import TaskProvider
from headrace.action_provider.providers.task_plans import Asked, AskedTask
from headrace.action_provider.state import Service
from headrace.schemas import schema

_SUBTITLE = "Run registered functions on your own endpoints"
_KEYWORDS = ("compute", "python", "function", "headrace")


@dataclass(frozen=True, slots=True)
class ComputeProvider(TaskProvider):
    """`/actions/compute/v3`: tasks on one endpoint."""

    path: str = "/actions/compute/v3"

    async def describe(self, service: Service, at: ProviderAddress) -> Description:
        """What it says of itself."""
        return Description(
            title="Headrace Compute",
            subtitle=_SUBTITLE,
            description=(
                "Runs one or more registered Python functions on one endpoint and gives their results back. The body is"
                " that of the Globus Compute V3 action provider; arguments and results are plain JSON."
            ),
            keywords=_KEYWORDS,
            input_schema=_whole("compute-body"),
        )

    async def asked(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Asked:
        """The tasks of a V3 body."""
        body = request.body
        check_body("compute-body", body)
        endpoint = UUID(body["endpoint_id"])
        return Asked(
            tasks=[
                AskedTask(
                    endpoint=endpoint,
                    function=UUID(task["function_id"]),
                    args=task.get("args") or (),
                    kwargs=task.get("kwargs") or {},
                    function_field=f"$.tasks[{place}].function_id",
                )
                for place, task in enumerate(body["tasks"])
            ],
            group=UUID(body["task_group_id"]) if body.get("task_group_id") else None,
            user_endpoint_config=body.get("user_endpoint_config"),
            resource_specification=body.get("resource_specification"),
            options=body.get("options"),
        )


@dataclass(frozen=True, slots=True)
class ComputeV2Provider(TaskProvider):
    """`/actions/compute`, and `/actions/compute/fxap`, as flows spell it, too: tasks on an endpoint each."""

    path: str = "/actions/compute"

    async def describe(self, service: Service, at: ProviderAddress) -> Description:
        """What it says of itself."""
        return Description(
            title="Headrace Compute (V2)",
            subtitle=_SUBTITLE,
            description=(
                "Runs one or more registered Python functions, each on an endpoint that it names, and gives their"
                " results back. The body is that of the Globus Compute V2 action provider, in all its spellings."
            ),
            keywords=_KEYWORDS,
            input_schema=_whole(compute_v2.SCHEMA),
        )

    async def asked(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Asked:
        """The tasks of a V2 body."""
        return Asked(tasks=compute_v2.read_tasks(request.body), options=request.body.get("options"))


def _whole(name: str) -> dict[str, Any]:
    """A body's schema as clients can use it, who have no other file of ours."""
    body = schema(name)
    options = {key: value for key, value in schema("task-options").items() if key != "$schema"}
    return {**body, "properties": {**body["properties"], "options": options}}
