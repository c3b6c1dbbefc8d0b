"""`headrace event`: publish events, look at stored ones, and follow what came of them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output, replay_commands
from headrace.cli.errors import CommandError
from headrace.cli.records import EVENT_COLUMNS, MOST_SHOWN, LimitOption, say_records
from headrace.cli.service import JsonOption, OfHomeOption, service
from headrace.cli.trace_view import tree
from headrace.cli.values import given, json_option, read_document

app = typer.Typer(help="Publish, list and follow events.", no_args_is_help=True)
app.add_typer(replay_commands.app, name="replay")

BusOption = Annotated[str, typer.Option(help="The bus.")]


@app.callback()
def group() -> None:
    """Publish, list and follow events."""


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
    bus: Annotated[str, typer.Option(help="Where it is published.")] = "default",
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
        **given(subject=subject, time=time),
        **_attributes(attribute or []),
    }
    if data is not None or file is not None:
        event["datacontenttype"] = "application/json"
        event["data"] = read_document(file) if file is not None else json_option(data, "--data")
    with service(home) as client:
        stored = client.publish(event, bus=bus)
    if as_json:
        output.say_json(stored)
    else:
        again = " before: this one changed nothing" if stored.get("duplicate") else ""
        output.say(f"Stored event {stored['id']} of {stored['source']}{again}.")
        if stored.get("problem"):
            output.note(f"It does not fit the schema of its type: {stored['problem']}")


@app.command("list")
def list_events(
    type_: Annotated[
        str | None, typer.Option("--type", help="Only this type; org.example.* for those below org.example.")
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", help="Only events that pass this filter (JSON; @FILE for a file with it).")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only what was stored since: a time, or 90s, 15m, 12h, 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Only what was stored before: a time, or how long ago.")] = None,
    limit: LimitOption = MOST_SHOWN,
    bus: BusOption = "default",
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """List stored events, newest first."""
    with service(home) as client:
        events = client.list_events(
            bus=bus,
            event_type=type_,
            wanted=json_option(filter_, "--filter"),
            since=since,
            until=until,
            limit=limit + 1,
        )
    say_records(events, EVENT_COLUMNS, as_json=as_json, limit=limit)


@app.command()
def show(
    event: Annotated[str, typer.Argument(help="Its place on the bus; or its source, with its id behind it.")],
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Its id within the source.")] = None,
    bus: BusOption = "default",
    home: OfHomeOption = None,
) -> None:
    """Show a stored event, whole."""
    with service(home) as client:
        if id_ is None:
            output.say_json(client.get_event(_sequence(event), bus=bus))
            return
        stored = client.trace_event((event, id_), bus=bus)["stored"]
    if stored is None:
        raise CommandError(f"the bus {bus!r} holds no event {id_!r} of {event!r} among the newest ones")
    output.say_json(stored)


@app.command()
def trace(
    event: Annotated[str, typer.Argument(help="Its place on the bus; or its source, with its id behind it.")],
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Its id within the source.")] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Its type: by source and id it is found sooner with it.")
    ] = None,
    subscription: Annotated[UUID | None, typer.Option(help="Only what became of it at this subscription.")] = None,
    explain: Annotated[bool, typer.Option(help="Say clause by clause why each matched, or did not.")] = False,
    bus: BusOption = "default",
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Follow an event: the subscriptions that it met, their tasks, errors, next attempts and dead letters.

    Exit status 1: nothing is stored of it.
    """
    which = (event, id_) if id_ is not None else _sequence(event)
    with service(home) as client:
        found = client.trace_event(which, bus=bus, event_type=type_, subscription_id=subscription, explain=explain)
    if as_json:
        output.say_json(found)
    else:
        output.say("\n".join(tree(found)))
    if found["stored"] is None and not found["subscriptions"]:
        raise typer.Exit(1)


def _sequence(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise CommandError(f"{text!r} is no place on a bus, which is a number; or give a source, and an id behind it")
    return int(text)


def _attributes(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise CommandError(f"--attribute {name!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}
