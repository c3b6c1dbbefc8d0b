"""What a worker needs of Headrace in an environment that does not have it: links to what this endpoint runs.

A line in the environment's site-packages (`headrace.pth`) names a folder of links, which comes behind the environment's
own packages. It has Headrace's folders and, where the environment's Python is of our minor version, the two packages
that a worker loads; for another Python these two are installed with the function's packages.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Final
from uuid import uuid4

PACKAGES: Final = ("cloudpickle", "msgspec")
FOLDERS: Final = ("bus", "endpoint", "schemas")


def make_library(directory: Path) -> Path:
    """The folder of links, made or mended; its path. Raises `OSError`."""
    library = directory / f"library-{sys.version_info.major}.{sys.version_info.minor}"
    links = {f"headrace/{name}": _folder(f"headrace.{name}") for name in FOLDERS}
    links |= {name: _folder(name) for name in PACKAGES}
    for name, target in links.items():
        _link(library / name, target)
    return library


def make_light_library(directory: Path) -> Path:
    """The same without packages, for another version of Python. Raises `OSError`."""
    library = directory / "library"
    for name in FOLDERS:
        _link(library / "headrace" / name, _folder(f"headrace.{name}"))
    return library


def packages_for_another_python() -> list[str]:
    """The requirements of a worker that cannot share our packages."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]


def _folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None  # noqa: S101 - we are running out of it
    assert spec.origin is not None  # noqa: S101 - a package with a file
    return Path(spec.origin).parent


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and path.readlink() == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: several environments, perhaps of several managers, may be made at once.
    fresh = path.with_name(f".{path.name}.{uuid4().hex}")
    fresh.symlink_to(target)
    fresh.replace(path)
