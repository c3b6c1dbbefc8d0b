"""Options that several commands share, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from headrace.cli.errors import CommandError

DEFAULT_HOME: Final = Path("~/.headrace")
HTTP_PORT: Final = 8742
NATS_PORT: Final = 4742
MOST_ACTION_VALUE_BYTES: Final = 2 * 1024 * 1024
"""Details have each value twice, and must fit into a message of the bus."""

HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="HEADRACE_HOME", help="Where keys, data, endpoints and logs lie.", show_default=True),
]


def expanded(path: Path) -> Path:
    """An absolute path without `~`."""
    return Path(path).expanduser().absolute()


def _readable_authorities(path: Path | None) -> Path | None:
    """The same, once it is known to hold certificates. Raises `NetworkUnusable`."""
    if path is None:
        return None
    from headrace.bus.network import Network

    Network(ca_file=expanded(path)).ssl_context()
    return path


CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="HEADRACE_CA_FILE",
        help="Authorities (a PEM file) to trust besides those of the system.",
        show_default=False,
        callback=_readable_authorities,
    ),
]

KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", help="The directory with service.json and master.key; by default HOME/keys."),
]
NatsWaitOption = Annotated[float, typer.Option("--nats-wait", min=0.0, help="Seconds to wait for NATS at the start.")]
LogLevelOption = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]


def http_address(text: str, option: str) -> str:
    """An address that begins with http:// or https://, or nothing. Raises `CommandError`."""
    if text and not text.startswith(("http://", "https://")):
        raise CommandError(f"{option} is {text!r}, which is no address, such as https://headrace.example.org")
    return text
