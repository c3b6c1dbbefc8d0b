"""`headrace event`: publish events."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.service import JsonOption, OfHomeOption, json_option, read_document, service

app = typer.Typer(help="Publish events.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Publish events."""


@app.command()
def publish(
    type_: Annotated[str, typer.Option("--type", help="What happened, such as org.example.weather.month.")],
    source: Annotated[str, typer.Option(help="Where it happened: a URI reference, such as /weather/seattle.")],
    id_: Annotated[
        str | None,
        typer.Option("--id", help="Names the event within its source: the same one is stored once. By default new."),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="What it is about, within the source.")] = None,
    time: Annotated[str | None, typer.Option(help="When it happened, such as 2026-03-01T00:00:00Z.")] = None,
    data: Annotated[str | None, typer.Option(help="The payload as JSON; @FILE for a file with it.")] = None,
    file: Annotated[Path | None, typer.Option(help="A JSON or YAML file with the payload; '-' is stdin.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="An extension attribute NAME=VALUE; repeatable.")] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Publish one CloudEvent; returns once it is stored."""
    if data is not None and file is not None:
        raise typer.BadParameter("give --data or --file, not both")
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id_ or str(uuid.uuid4()),
        "source": source,
        "type": type_,
        **({"subject": subject} if subject is not None else {}),
        **({"time": time} if time is not None else {}),
        **_attributes(attribute or []),
    }
    if data is not None or file is not None:
        event["datacontenttype"] = "application/json"
        event["data"] = read_document(file) if file is not None else json_option(data, "--data")
    with service(home) as client:
        stored = client.publish(event)
    if as_json:
        output.say_json(stored)
    else:
        again = " before: this one changed nothing" if stored.get("duplicate") else ""
        output.say(f"Stored event {stored['id']} of {stored['source']}{again}.")


def _attributes(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise CommandError(f"--attribute {name!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}
