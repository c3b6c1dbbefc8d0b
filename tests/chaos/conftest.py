"""What is common to all tests that kill."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long runs only when they are asked for: `make chaos`."""
    if "soak" in config.getoption("-m"):
        return
    skipped = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=skipped)
    items[:] = [item for item in items if item not in skipped]
