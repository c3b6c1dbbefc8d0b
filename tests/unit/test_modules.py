"""Modules that travel with a function: packaged here, imported as a worker would."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from headrace.bus.errors import FunctionUnusable
from headrace.bus.functions.installed import is_installed
from headrace.bus.functions.modules import MOST_BYTES, activate, add, pack


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path / "away")
    yield
    activate(b"")
    for name in [name for name in sys.modules if name.startswith("shapes_")]:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "shapes_lib" / "deep").mkdir(parents=True)
    (root / "shapes_helper.py").write_text("from shapes_lib.deep import area\ndef twice(x):\n    return 2 * area(x)\n")
    (root / "shapes_lib" / "__init__.py").write_text("VERSION = 1\n")
    (root / "shapes_lib" / "table.txt").write_text("a table")
    (root / "shapes_lib" / "deep" / "__init__.py").write_text(
        "from .. import VERSION\ndef area(x): return x * VERSION\n"
    )
    (root / "notes.md").write_text("not code")
    (root / ".hidden").mkdir()
    return root


def test_a_folder_of_modules_is_imported_with_its_packages_and_data(project: Path) -> None:
    activate(pack([project]))

    assert importlib.import_module("shapes_helper").twice(4) == 8
    assert pkgutil.get_data("shapes_lib", "table.txt") == b"a table"


def test_equal_modules_are_equal_bytes(project: Path) -> None:
    assert pack([project / "shapes_helper.py", project / "shapes_lib"]) == pack([project])
    assert pack([]) == b""


def test_another_version_of_a_module_takes_its_place_and_gives_it_back(project: Path) -> None:
    first = pack([project])
    (project / "shapes_lib" / "__init__.py").write_text("VERSION = 10\n")
    second = pack([project])
    seen = []

    for packed in (first, second, first):
        activate(packed)
        seen.append(importlib.import_module("shapes_helper"))

    assert [module.twice(1) for module in seen] == [2, 20, 2]
    assert seen[0] is seen[2]
    activate(b"")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("shapes_helper")
    assert not [name for name in sys.modules if name.startswith("shapes_")]


def test_where_calls_run_in_threads_one_version_of_a_module_stays(project: Path) -> None:
    before = list(sys.meta_path)
    first = pack([project])
    (project / "shapes_lib" / "__init__.py").write_text("VERSION = 10\n")
    second = pack([project])

    try:
        add(first)
        add(first)
        assert importlib.import_module("shapes_helper").twice(1) == 2
        with pytest.raises(FunctionUnusable, match=r"another module 'shapes_helper' is loaded.*threads"):
            add(second)
    finally:
        sys.meta_path[:] = before


def test_a_traceback_shows_the_lines_of_a_module(project: Path) -> None:
    (project / "shapes_helper.py").write_text("def fail():\n    raise ValueError('here')  # the line\n")
    activate(pack([project]))

    with pytest.raises(ValueError, match="here") as failed:
        importlib.import_module("shapes_helper").fail()

    assert "raise ValueError('here')  # the line" in "".join(traceback.format_exception(failed.value))


def test_classes_go_by_name_when_both_sides_have_the_module(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strangers = pack([project / "shapes_lib"])
    monkeypatch.syspath_prepend(project)
    known = pack([importlib.import_module("shapes_lib.deep")])

    activate(known)
    assert is_installed("shapes_lib.deep")
    activate(strangers)
    importlib.import_module("shapes_lib")
    assert not is_installed("shapes_lib")


def test_what_cannot_be_sent_is_told(project: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "big.py").write_bytes(b"#" * (MOST_BYTES + 1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "not-a-name.py").write_text("")
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "__init__.py").write_text("")
    (tmp_path / "compiled" / "fast.so").write_bytes(b"")
    (tmp_path / "other" / "shapes_lib").mkdir(parents=True)
    (tmp_path / "other" / "shapes_lib" / "__init__.py").write_text("VERSION = 2\n")

    for given, problem in (
        ([tmp_path / "json.py"], "take the place of Python's own"),
        ([tmp_path / "broken.py"], "'broken.py' does not compile"),
        ([tmp_path / "big.py"], "4 MiB together"),
        ([tmp_path / "empty"], "holds no modules"),
        ([tmp_path / "nowhere"], "no modules at"),
        ([tmp_path / "not-a-name.py"], "is no name"),
        ([tmp_path / "compiled"], r"compiled module.*requirements="),
        ([project / "notes.md"], "is no module"),
        ([project, tmp_path / "other"], "two different files"),
        ([numpy], r"installed package: name it in requirements="),
        ([sys], "no source file"),
    ):
        with pytest.raises(FunctionUnusable, match=problem):
            pack(given)
    with pytest.raises(FunctionUnusable, match="cannot be read"):
        activate(b"nonsense")
