"""What commands that speak to the service share."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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


def read_text(path: Path) -> str:
    """A file's text, or that of standard input for `-`. Raises `CommandError`."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error


def read_document(path: Path) -> Any:
    """A file's JSON or YAML. Raises `CommandError` with the line."""
    import yaml

    from headrace.bus.plain_yaml import plain_loader

    text = read_text(path)
    try:
        # YAML includes JSON, but turns what looks like a date into one, which JSON cannot carry.
        return json.loads(text) if text.lstrip().startswith(("{", "[")) else yaml.load(text, Loader=plain_loader())  # noqa: S506
    except (ValueError, yaml.YAMLError) as error:
        raise CommandError(f"{path} is neither JSON nor YAML: {error}") from error


def document_of(path: Path | None, what: str) -> dict[str, Any]:
    """The object in a file, `{}` without one. Raises `CommandError`."""
    document = {} if path is None else read_document(path)
    if not isinstance(document, dict):
        raise CommandError(f"{path} does not hold {what}: expected an object")
    return document


def json_option(text: str | None, option: str) -> Any:
    """The value of an option that holds JSON, `@FILE` for a file with it. Raises `CommandError`."""
    if text is None:
        return None
    if text.startswith("@"):
        return read_document(Path(text[1:]))
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"{option} is not JSON: {error}; it was {text!r}") from error


def shown(value: object) -> str:
    """A value as a cell of a table."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value)
