"""What is built is whole: the wheel has every module and schema, and works where no checkout is.

Here the wheel is installed beside the dependencies that are there already; `make wheel-test` installs it with all of
them, as a user does, and runs a function.
"""

from __future__ import annotations

import email
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from build import check_dependency

ROOT = Path(__file__).parents[2]
FOLDERS = ("action_provider", "bus", "cli", "endpoint", "schemas", "sdk")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel of the tree, the sdist, and in `from-sdist` the wheel that the sdist makes."""
    tree, out = tmp_path_factory.mktemp("build") / "tree", tmp_path_factory.mktemp("dist")
    # A copy: building writes into the tree, and the tree is in use.
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    build(tree, out, "--wheel")
    build(tree, out / "from-sdist")  # an sdist, and a wheel from that
    return out


def build(tree: Path, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options, str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel; its dependencies are those of this environment."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False, symlinks=True)
    (site,) = place.glob("lib/python*/site-packages")
    # Only a path: this environment's own .pth files, and with them an editable Headrace, stay out.
    (here,) = {str(Path(sys.modules[name].__file__ or "").parents[1]) for name in ("pytest", "build")}
    (site / "dependencies.pth").write_text(f"{here}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(place / "bin" / "python")]
    done = subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "bin" / "python"


def contents(wheel: Path) -> dict[str, str]:
    """The digests of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def in_the_tree(pattern: str) -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (path.relative_to(ROOT) for path in (ROOT / folder).rglob(pattern))


def test_the_wheel_has_every_module_of_the_tree(wheel: Path) -> None:
    names = {name for name in contents(wheel) if name.endswith(".py")}

    assert names == {f"headrace/{path}" for path in in_the_tree("*.py")}


def test_the_list_of_packages_names_every_folder_with_code(project: dict[str, Any]) -> None:
    listed = project["tool"]["setuptools"]["packages"]

    found = {path.parent for path in in_the_tree("__init__.py")}
    assert sorted(listed) == sorted("headrace." + ".".join(folder.parts) for folder in found)
    # A folder with modules and no __init__.py would be left out in silence.
    assert {path.parent for path in in_the_tree("*.py")} == found


def test_the_wheel_has_every_schema_and_says_that_it_is_typed(wheel: Path) -> None:
    names = set(contents(wheel))

    schemas = sorted((ROOT / "schemas").glob("*.json"))
    assert schemas
    assert {f"headrace/schemas/{path.name}" for path in schemas} <= names
    assert {f"headrace/{folder}/py.typed" for folder in FOLDERS} <= names


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    strange = [
        name
        for name in contents(wheel)
        if not re.fullmatch(
            r"headrace-[^/]+\.dist-info/.*|headrace/.*\.py|.*/py\.typed|headrace/schemas/.*\.json", name
        )
    ]

    assert strange == []


def test_the_sdist_makes_the_same_wheel(wheel: Path, built: Path) -> None:
    (again,) = (built / "from-sdist").glob("*.whl")

    assert contents(again) == contents(wheel)


def test_the_installed_wheel_runs_and_every_module_is_imported_from_it(
    installed: Path, wheel: Path, tmp_path: Path
) -> None:
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in contents(wheel)
        if name.endswith(".py")
    )
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.__file__.startswith(sys.prefix), module.__file__\n"
    )
    done = subprocess.run(
        [installed, "-W", "error", "-c", program, *modules],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = subprocess.run(
        [installed.with_name("headrace"), "version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout == f"headrace {metadata(wheel)['Version']}\n"


def test_the_schemas_are_found_in_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    program = "from headrace.schemas import schema_names; print(len(schema_names()))"
    done = subprocess.run([installed, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert int(done.stdout) == len(list((ROOT / "schemas").glob("*.json")))


def test_the_metadata_says_what_the_project_says(wheel: Path, project: dict[str, Any]) -> None:
    said = metadata(wheel)

    assert said["Version"] == project["project"]["version"]
    assert said["Requires-Python"] == project["project"]["requires-python"] == ">=3.11"
    assert said["License-Expression"] == "Apache-2.0"
    assert {line.partition(";")[0] for line in said.get_all("Requires-Dist", []) if "extra ==" not in line} == {
        line.partition(";")[0] for line in project["project"]["dependencies"]
    }
    lowest = project["project"]["requires-python"].removeprefix(">=")
    assert project["tool"]["mypy"]["python_version"] == lowest
    assert project["tool"]["ruff"]["target-version"] == "py" + lowest.replace(".", "")


def test_the_changelog_begins_with_this_version(project: dict[str, Any]) -> None:
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == project["project"]["version"]


@pytest.mark.parametrize("requirement", ["headrace", "headrace[dev]"])
def test_everything_that_is_required_is_here_in_a_version_that_fits(requirement: str) -> None:
    assert list(check_dependency(requirement)) == []
