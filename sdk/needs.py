"""What a function needs where it runs, as users say it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from headrace.bus.errors import RequirementsInvalid
from headrace.bus.functions import modules as packaging
from headrace.bus.functions.code import FunctionCode
from headrace.bus.functions.modules import Modules
from headrace.bus.functions.requirements import Needs, of_file

Requirements = Iterable[str] | Path | str


def needs_of(requirements: Requirements | None, python: str | None) -> Needs:
    """Read `requirements=` (a list, or the path of a file) and `python=`. Raises `RequirementsInvalid`."""
    if python is not None and not isinstance(python, str):
        raise RequirementsInvalid(f"{python!r} is no text; write '3.12'", field="requires_python")
    if isinstance(requirements, str) and not requirements.endswith(".txt"):
        raise RequirementsInvalid(
            f"give a list, or the path of a requirements.txt, not {requirements!r}: [{requirements!r}]"
        )
    entries = of_file(Path(requirements)) if isinstance(requirements, str | Path) else requirements
    return Needs.of(entries or (), python or "")


def with_needs(code: FunctionCode, needs: Needs, modules: Iterable[Modules]) -> FunctionCode:
    """The function with its packages and modules. Raises `FunctionUnusable` for modules that cannot be sent."""
    if isinstance(modules, str | Path):
        modules = [modules]
    return msgspec.structs.replace(
        code,
        requirements=list(needs.requirements),
        requires_python=needs.python,
        modules=packaging.pack(modules),
    )
