"""What commands that speak to the service share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.errors import CommandError
from headrace.cli.options import expanded

if TYPE_CHECKING:
    from headrace.sdk.client import Client

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
OfHomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Use the service and the token in this home's profile.json, whatever else is set."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@contextlib.contextmanager
def service(home: Path | None = None) -> Iterator[Client]:
    """A client of the service of a home, or of the one that the environment or the profile names.

    Raises `NotConfigured` for a home without a profile; without a home the client's first use may raise it.
    """
    # An HTTP client takes its time to load, and `headrace --help` needs none.
    from headrace.sdk.client import Client
    from headrace.sdk.profile import Profile

    profile = None if home is None else Profile.read(expanded(home) / "profile.json")
    with Client(profile=profile) as client:
        try:
            yield client
        except ValueError as error:
            # What cannot be the name or id of anything.
            raise CommandError(str(error)) from error


def confirmed(question: str, *, yes: bool) -> None:
    """Ask, unless `--yes` was given; no ends the command. Where nobody can answer, `--yes` is asked for."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody can answer here: add --yes.")
    typer.confirm(question, abort=True)
