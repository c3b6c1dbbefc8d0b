"""The public lists and the tree of errors are what they say."""

from __future__ import annotations

import importlib
import inspect
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

import headrace.action_provider
import headrace.schemas
import headrace.sdk
from headrace.schemas import HeadraceError

ROOT = Path(__file__).parents[2]
FOLDERS = ("action_provider", "bus", "cli", "endpoint", "schemas", "sdk")


def modules() -> list[ModuleType]:
    """Every module of the package."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(importlib.import_module("headrace." + ".".join(p for p in parts if p != "__init__")))
    return found


def exceptions() -> dict[str, type[BaseException]]:
    """Every exception that the package defines, by its full name."""
    found: dict[str, type[BaseException]] = {}
    for module in modules():
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == module.__name__:
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


@pytest.mark.parametrize(
    "package", [headrace.sdk, headrace.schemas, headrace.action_provider], ids=lambda package: str(package.__name__)
)
def test_a_packages_list_is_what_it_gives_out(package: ModuleType) -> None:
    listed = list(package.__all__)

    assert len(listed) == len(set(listed))
    for name in listed:
        assert getattr(package, name) is not None
    # What is imported into the package is there to be given out. Sub-modules and `typing`'s names are not.
    given = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "").startswith("headrace.")
    }
    assert given <= set(listed)


def test_the_client_gives_out_what_users_import() -> None:
    assert {"Executor", "Client", "TaskFuture", "TaskFailed"} <= set(headrace.sdk.__all__)
    # Everything that its own errors module defines or re-exports is in the face of the package, too.
    errors = importlib.import_module("headrace.sdk.errors")
    assert set(errors.__all__) <= set(headrace.sdk.__all__)


def test_every_error_has_the_one_root_unless_it_stays_inside() -> None:
    strangers = {
        name: kind
        for name, kind in exceptions().items()
        # A private one steers the flow within its module; nobody outside can catch it.
        if not issubclass(kind, HeadraceError) and not kind.__name__.startswith("_")
    }

    assert strangers == {}


def test_no_module_reaches_for_anothers_private_exception() -> None:
    private = {kind.__name__: name for name, kind in exceptions().items() if kind.__name__.startswith("_")}
    for module in modules():
        source = Path(inspect.getfile(module)).read_text()
        for short, name in private.items():
            assert module.__name__ == name.rpartition(".")[0] or not re.search(rf"\b{short}\b", source), module


TWO_NAMES = {"PayloadTooLarge": {"PayloadTooLarge", "BodyTooLarge"}}
"""One fact for clients, which the bus and the service find in two places."""


def test_every_error_has_a_code_of_its_own_and_a_first_line_that_says_when() -> None:
    by_code: dict[str, set[str]] = defaultdict(set)
    for name, kind in exceptions().items():
        if issubclass(kind, HeadraceError) and not kind.__name__.startswith("_"):
            assert re.fullmatch(r"[A-Z][A-Za-z]+", kind.code), name
            assert kind.__doc__, name
            assert "code" in vars(kind), f"{name} has the code of its parent"
            by_code[kind.code].add(name)

    # The same fact may have a class on both sides of the wire, and then it has one code.
    for code, names in by_code.items():
        kinds = {name.rpartition(".")[2] for name in names}
        assert kinds == {code} or len(names) == 1 or kinds == TWO_NAMES.get(code), (code, names)
        assert len({name.split(".")[1] for name in names}) == len(names), (code, names)


@pytest.mark.parametrize("folder", ["action_provider", "bus", "cli", "endpoint", "sdk"])
def test_the_tree_of_errors_names_them_all(folder: str) -> None:
    errors = importlib.import_module(f"headrace.{folder}.errors")
    own = [
        kind.__name__
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, HeadraceError) and kind.__module__ == errors.__name__
    ]

    assert own
    for name in own:
        assert re.search(rf"\b{name}\b", errors.__doc__ or ""), f"{name} is missing in the tree of {errors.__name__}"
