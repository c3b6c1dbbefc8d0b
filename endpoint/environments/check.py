"""Whether functions can have the packages that they need, in a pool with this engine."""

from __future__ import annotations

from headrace.bus.errors import EnvironmentUnusable, RequirementsInvalid
from headrace.bus.functions.requirements import Needs
from headrace.endpoint.engines.settings import EngineSettings, OwnProcesses, ThreadSettings
from headrace.endpoint.environments.policy import EnvironmentPolicy
from headrace.endpoint.errors import EnvironmentRefused


def check_environment(text: str, policy: EnvironmentPolicy, engine: EngineSettings) -> None:
    """Raises `EnvironmentRefused`, which says what to do, when they cannot. `text` is that of `Needs`, or empty."""
    if not text:
        return
    try:
        needs = Needs.of_text(text)
        policy.check(needs)
    except (EnvironmentUnusable, RequirementsInvalid) as error:
        raise EnvironmentRefused(str(error)) from error
    if isinstance(engine, ThreadSettings):
        raise EnvironmentRefused(
            f"the function needs {needs.describe()}, and the threads of this endpoint's {engine.type} are all in the "
            "endpoint's own Python, with the packages of that: use an endpoint whose tasks run in processes, or have "
            "the packages installed with the endpoint"
        )
    if isinstance(engine, OwnProcesses) and engine.container_type:
        recipe = " ".join(needs.requirements) or "..."
        raise EnvironmentRefused(
            f"the function needs {needs.describe()}, and the pool that was asked for runs in a container, which has "
            "the Python and the packages of its image: choose an image that has them (one made of it with `RUN pip "
            f"install {recipe}`), register the function without naming them, or submit without a container"
        )
