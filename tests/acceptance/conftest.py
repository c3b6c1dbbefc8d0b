"""What some tests of this tier stand on. A module that needs it otherwise has a fixture of the same name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from headrace_up import Up, headrace_up
from shell import Shell


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`headrace up` with one worker, for all tests of a module."""
    options = ("--workers", "1", "--durability", "relaxed")
    with headrace_up(tmp_path_factory.mktemp("up") / "home", *options) as running:
        yield running


@pytest.fixture
def shell(up: Up) -> Shell:
    """As the administrator on the machine where `headrace up` runs."""
    return Shell(up.home)
