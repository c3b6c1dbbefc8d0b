"""What every tier uses."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

_HERE = Path(__file__).parent
_SLOW_FIRST = ("chaos", "powerloss", "large", "packaging", "acceptance", "integration", "unit")


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the product does."""
    return "asyncio"


def pytest_configure() -> None:
    """Modules are compiled once, and not by each of a thousand processes that tests start; signals end what tests
    start; examples have no time limit.

    Images for containers and continuous integration often turn the first off; the suite takes a quarter longer so.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Five thousand tests are much to search for garbage again and again.
    gc.set_threshold(20_000, 20, 20)
    # A shell that runs us in the background, or `nohup`, has us ignore them, and what we start would inherit
    # that. It does not inherit a handler.
    for each in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, lambda number, frame: None)
    # How long an example takes says more about the machine's other work than about the code. Each run has others.
    hypothesis.settings.register_profile("headrace", deadline=None, max_examples=50)
    hypothesis.settings.load_profile("headrace")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A command that is run in this process sets up logging as a process of its own would: that ends with its test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        return (yield)
    finally:
        root.setLevel(level)
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)


def pytest_collection_finish() -> None:
    """What was collected stays."""
    gc.freeze()


@pytest.hookimpl(trylast=True)  # pytest-randomly has shuffled
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long runs only when they are asked for (`make chaos`, `make powerloss`), and the slow folders first.

    Files are dealt out to processes as they come: with a slow one last, all but one process would wait for it. Within
    a folder the order stays random.
    """
    if "soak" not in config.getoption("-m"):
        skipped = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=skipped)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    items.sort(key=lambda item: _rank(item.path))


@functools.cache
def _rank(path: Path) -> int:
    return next((rank for rank, folder in enumerate(_SLOW_FIRST) if _HERE / folder in path.parents), 0)
