"""A template's text and that of its neighbours. Light: Jinja2 is loaded by whoever renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace.endpoint.configuration.yaml_file import read_text

RESERVED: Final = ("_GC", "parent_config", "user_runtime", "mapped_identity")
"""Names that a template finds besides the user's options. Those without `_GC.` are Globus Compute's older form."""

SUFFIXES: Final = (".j2", ".jinja", ".jinja2", ".yaml", ".yml")
"""Of files that are templates."""


@dataclass(frozen=True, slots=True)
class Templates:
    """A template and those beside it, which it may extend or include. A token that lies beside them is no template."""

    main: Path
    texts: Mapping[str, str]
    """By file name."""

    @classmethod
    def read(cls, main: Path) -> Templates:
        """Read a template and its neighbours, wherever links lead. Raises `ConfigInvalid`."""
        root = main.parent.resolve()
        beside = (path for path in main.parent.iterdir() if path.suffix in SUFFIXES and path != main)
        inside = (path for path in beside if path.is_file() and path.resolve().parent == root)
        return cls(main, {path.name: read_text(path) for path in (main, *sorted(inside))})
