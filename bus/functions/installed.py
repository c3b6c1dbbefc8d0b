"""Which modules a worker can be expected to have: the standard library's, Headrace's, and those of installed packages.

Their code goes by name. Everything else (`__main__`, notebooks, files beside the user's program, editable
installations) is the user's own, and goes by value.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Callable
from pathlib import PurePath
from types import ModuleType

_INSTALLED_FOLDERS = ("site-packages", "dist-packages")
_installed: dict[str, bool] = {"builtins": True, "__main__": False, "__mp_main__": False}
_need_no_look = {"builtins", "__main__", "__mp_main__"}
"""Modules that are installed, or go by value without having been registered."""


_goes_by_name: Callable[[str], bool] | None = None


def also_by_name(rule: Callable[[str], bool]) -> None:
    """Let this rule say of further modules that their code goes by name, as long as it says so."""
    global _goes_by_name  # noqa: PLW0603 - one worker, one rule
    _goes_by_name = rule


def is_installed(module_name: str) -> bool:
    """Whether a module is the standard library's, Headrace's or an installed package's: it goes by reference.

    Everything else (`__main__`, notebooks, files beside the user's program, editable installations) goes by value.
    """
    known = _installed.get(module_name)
    if known is not None:
        return known
    if _goes_by_name is not None and _goes_by_name(module_name):
        return True
    module = sys.modules.get(module_name)
    if module is None:
        return False  # it was made, not imported; perhaps it is imported later, so nothing is remembered
    known = _installed[module_name] = _is_installed(module)
    if known:
        _need_no_look.add(module_name)
    return known


def _is_installed(module: ModuleType) -> bool:
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    if top.__name__ == "headrace" or module.__name__.startswith("headrace."):
        return True
    spec = getattr(module, "__spec__", None)
    origin = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    if origin in (None, "built-in", "frozen"):
        return spec is not None
    if any(folder in PurePath(origin).parts for folder in _INSTALLED_FOLDERS):
        return True
    return str(origin).startswith(_standard_library())


@functools.cache
def _standard_library() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


def own_modules() -> list[ModuleType]:
    """The user's own modules among those imported. A module under another name than its own is left out."""
    modules = [(name, sys.modules.get(name)) for name in set(sys.modules) - _need_no_look]
    return [
        module
        for name, module in modules
        if type(module) is ModuleType and module.__name__ == name and not is_installed(name)
    ]
