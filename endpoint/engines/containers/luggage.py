"""What workers take into their containers, so that an image needs nothing but Python.

    code/headrace/       Headrace's own code, always that of the endpoint: engine and worker must be of one kind
    code/dependencies/   msgspec and cloudpickle, for images that do not have them

Copied, not mounted from where they are installed: a container has one directory of the pool, whatever its runtime.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Final

_FOLDERS: Final = ("bus", "endpoint", "schemas", "sdk")
"""What functions may name, and workers load as far as they need it."""
_DEPENDENCIES: Final = ("msgspec", "cloudpickle")


def pack(code: Path) -> None:
    """Put all of it into a directory, in place of what is there. Raises `OSError`."""
    shutil.rmtree(code, ignore_errors=True)
    for folder in _FOLDERS:
        _copy(f"headrace.{folder}", code / "headrace" / folder)
    for package in _DEPENDENCIES:
        _copy(package, code / "dependencies" / package)


def _copy(package: str, target: Path) -> None:
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations if found is not None else None) or ():
        # With the compiled files: they are good for an image with our Python, and the directory is read-only there.
        shutil.copytree(place, target, dirs_exist_ok=True)
        return
