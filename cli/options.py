"""Options that several commands share, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

DEFAULT_HOME: Final = Path("~/.headrace")
HTTP_PORT: Final = 8742
NATS_PORT: Final = 4742

HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="HEADRACE_HOME", help="Where keys, data, endpoints and logs lie.", show_default=True),
]

CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="HEADRACE_CA_FILE",
        help="Authorities (a PEM file) to trust besides those of the system.",
        show_default=False,
    ),
]


def expanded(path: Path) -> Path:
    """An absolute path without `~`."""
    return Path(path).expanduser().absolute()
