"""Where events may be sent by HTTP, as an administrator says it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from headrace.bus.eventing.sinks.addresses import AddressPolicy
from headrace.cli.errors import CommandError

SinkAllowOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOST|NETWORK",
        help="Where events may be sent by HTTP besides the public internet: a host's name, an address, or a network"
        " such as 10.1.0.0/16. May be repeated.",
        show_default=False,
    ),
]


def allowed_sinks(entries: Iterable[str] | None) -> AddressPolicy:
    """What `--sink-allow` says. Raises `CommandError`."""
    try:
        return AddressPolicy.of(entries or ())
    except ValueError as error:
        raise CommandError(f"--sink-allow: {error}") from None
