"""What every tier uses."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the product does."""
    return "asyncio"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long runs only when they are asked for: `make chaos`, `make powerloss`."""
    if "soak" in config.getoption("-m"):
        return
    skipped = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=skipped)
    items[:] = [item for item in items if item not in skipped]
