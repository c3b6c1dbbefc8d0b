"""`headrace bus`: buses of your own, and who may publish and subscribe there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.bus.durations import shown_duration
from headrace.bus.sizes import parse_size, shown_size
from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.records import AllOrLimitOption, say_records, shown
from headrace.cli.service import JsonOption, OfHomeOption, YesOption, confirmed, service
from headrace.cli.values import document_of, duration_s, given, json_given, urn_of

app = typer.Typer(help="Make, change and delete buses, and say who may publish and subscribe.", no_args_is_help=True)

_Publishers = Annotated[
    list[str] | None,
    typer.Option("--publisher", help="Who may publish: a user, group:NAME, a URN, or `public`; repeatable."),
]
_Subscribers = Annotated[
    list[str] | None,
    typer.Option("--subscriber", help="Who may subscribe, and so read: as for --publisher; repeatable."),
]
_MaxAge = Annotated[str | None, typer.Option(help="How long events are kept, such as 12h or 30d.")]
_MaxSize = Annotated[str | None, typer.Option(help="How much is kept, such as 500MB; the oldest events go.")]
_Schemas = Annotated[
    str | None,
    typer.Option(
        help='What events must be, by their type: {"TYPE": {"schema": {…}, "policy": "mark"}}; @FILE for a file.'
    ),
]
_Description = Annotated[str | None, typer.Option(help="What it is for.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Small letters, digits, - and _; nobody else can have it.")],
    description: _Description = None,
    publisher: _Publishers = None,
    subscriber: _Subscribers = None,
    max_age: _MaxAge = None,
    max_size: _MaxSize = None,
    schemas: _Schemas = None,
    file: Annotated[
        Path | None, typer.Option(help="A whole bus as JSON or YAML; options replace what it says.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Make a bus of your own. You may publish and subscribe there, and whom you name."""
    document = document_of(file, "a bus", "publishers, subscribers, retention")
    document.pop("name", None)
    document |= _fields(description, publisher, subscriber, max_age, max_size, schemas)
    with service(home) as client:
        _say(client.create_bus(name, **document), as_json=as_json)


@app.command("list")
def list_buses(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List the buses that you may use."""
    with service(home) as client:
        buses = client.list_buses()
    columns = {
        "NAME": "name",
        "OWNER": "owner",
        "PUBLISH": "may_publish",
        "SUBSCRIBE": "may_subscribe",
        "DESCRIPTION": "description",
    }
    say_records(buses, columns, as_json=as_json, limit=limit)


@app.command()
def show(name: Annotated[str, typer.Argument()], as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """Show a bus: who may use it, how long it keeps what, what events must be, and how much it holds."""
    with service(home) as client:
        _say(client.get_bus(name), as_json=as_json)


@app.command()
def change(
    name: Annotated[str, typer.Argument()],
    description: _Description = None,
    publisher: _Publishers = None,
    subscriber: _Subscribers = None,
    max_age: _MaxAge = None,
    max_size: _MaxSize = None,
    schemas: _Schemas = None,
    owner: Annotated[str | None, typer.Option(help="Give it to somebody else: a user or a URN.")] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Change a bus of yours; what is not given stays. Publishers, subscribers and schemas are replaced as a whole."""
    fields = _fields(description, publisher, subscriber, max_age, max_size, schemas)
    if owner is not None:
        fields["owner"] = urn_of(owner)
    if not fields:
        raise CommandError("say what is to change")
    with service(home) as client:
        _say(client.change_bus(name, **fields), as_json=as_json)


@app.command()
def delete(name: Annotated[str, typer.Argument()], yes: YesOption = False, home: OfHomeOption = None) -> None:
    """Delete a bus of yours with its events, the subscriptions to it, and the schedules and webhooks that publish to
    it, whoever owns them. Tasks that run go on, dead letters stay, and the name stays yours."""
    confirmed(f"Delete the bus {name} with its events, and all that subscribes or publishes to it?", yes=yes)
    with service(home) as client:
        client.delete_bus(name)
    output.say(f"Deleted the bus {name}.")


_Add = Annotated[list[str] | None, typer.Option(help="A user, group:NAME, a URN, or `public`; repeatable.")]
_Remove = Annotated[list[str] | None, typer.Option(help="Likewise, who may no more; repeatable.")]


@app.command()
def publishers(
    name: Annotated[str, typer.Argument()], add: _Add = None, remove: _Remove = None, home: OfHomeOption = None
) -> None:
    """Let somebody publish to a bus of yours, or no more; prints who may, besides you."""
    with service(home) as client:
        _change(name, "publishers", add, remove, client.add_publisher, client.remove_publisher, client.get_bus)


@app.command()
def subscribers(
    name: Annotated[str, typer.Argument()], add: _Add = None, remove: _Remove = None, home: OfHomeOption = None
) -> None:
    """Let somebody subscribe to a bus of yours, and so read it, or no more; prints who may, besides you."""
    with service(home) as client:
        _change(name, "subscribers", add, remove, client.add_subscriber, client.remove_subscriber, client.get_bus)


credential_app = typer.Typer(
    help="Credentials with which programs publish to a bus straight over NATS, and nothing else.", no_args_is_help=True
)
app.add_typer(credential_app, name="credential")


@credential_app.command("create")
def create_credential(
    bus: Annotated[str, typer.Argument(help="The bus.")],
    out: Annotated[Path, typer.Option(help="The .creds file to write; only you may read it.")],
    label: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    source: Annotated[str | None, typer.Option(help="With what the sources of its events begin.")] = None,
    ttl: Annotated[str | None, typer.Option(help="How long it lives, such as 30d; by default a day.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file, should there be one.")] = False,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Make a credential that publishes to one subject, in your name, for a program that speaks NATS."""
    from headrace.bus.installation.private_files import write_private

    ttl_s = None if ttl is None else duration_s(ttl, "--ttl")
    if out.exists() and not force:
        raise CommandError(f"{out} exists already, and is not overwritten; give another name, or --force")
    if not out.parent.is_dir():
        raise CommandError(f"{out} cannot be written: there is no directory {out.parent}")
    with service(home) as client:
        made = client.create_bus_credential(bus, label=label, source=source, ttl_s=ttl_s)
        try:
            write_private(out, made.pop("creds"))
        except OSError as error:
            # Nobody has it, so nobody is to have it by and by.
            client.delete_bus_credential(bus, made["credential_id"])
            raise CommandError(f"{out} cannot be written: {error.strerror or error}") from error
    if as_json:
        output.say_json(made)
        return
    output.note(f"{out} is good until {made['expires_at']}. Connect to {', '.join(made['nats_urls'])},")
    output.note(f"with the inbox prefix {made['inbox_prefix']}, and publish requests to:")
    output.say(str(made["subject"]))


@credential_app.command("list")
def list_credentials(
    bus: Annotated[str, typer.Argument(help="The bus.")],
    limit: AllOrLimitOption = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """List the credentials of a bus: yours, and those of others where it is yours."""
    with service(home) as client:
        credentials = client.list_bus_credentials(bus)
    columns = {"ID": "credential_id", "LABEL": "label", "OF": "principal", "SOURCE": "source", "UNTIL": "expires_at"}
    say_records(credentials, columns, as_json=as_json, limit=limit)


@credential_app.command("delete")
def delete_credential(
    bus: Annotated[str, typer.Argument(help="The bus.")],
    credential_id: Annotated[str, typer.Argument()],
    home: OfHomeOption = None,
) -> None:
    """Withdraw a credential: its connections end, and what it publishes is refused."""
    with service(home) as client:
        client.delete_bus_credential(bus, credential_id)
    output.say(f"Withdrew {credential_id}.")


def _change(
    name: str,
    side: str,
    add: list[str] | None,
    remove: list[str] | None,
    adding: Callable[[str, str], Any],
    removing: Callable[[str, str], Any],
    get: Callable[[str], Any],
) -> None:
    for guest in add or ():
        adding(name, urn_of(guest))
    for guest in remove or ():
        removing(name, urn_of(guest))
    for guest in get(name)[side]:
        output.say(str(guest))


def _fields(
    description: str | None,
    publishers: list[str] | None,
    subscribers: list[str] | None,
    max_age: str | None,
    max_size: str | None,
    schemas: str | None,
) -> dict[str, Any]:
    retention = given(
        max_age_s=None if max_age is None else duration_s(max_age, "--max-age"),
        max_bytes=None if max_size is None else _bytes(max_size),
    )
    fields = given(
        description=description,
        publishers=None if publishers is None else [urn_of(each) for each in publishers],
        subscribers=None if subscribers is None else [urn_of(each) for each in subscribers],
        retention=retention or None,
    )
    return fields | json_given(schemas=schemas)


def _bytes(text: str) -> int:
    try:
        return parse_size(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise CommandError(f"--max-size {error}") from None


def _say(bus: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.say_json(bus)
        return
    kept = bus["retention"]
    rows = [
        ("name", bus["name"]),
        ("owner", bus["owner"] or "everybody"),
        ("description", bus["description"]),
        ("publishers", bus["publishers"]),
        ("subscribers", bus["subscribers"]),
        ("kept", f"{shown_duration(kept['max_age_s'])}, {shown_size(kept['max_bytes'])}"),
        ("schemas", [f"{kind} ({each['policy']})" for kind, each in bus["schemas"].items()]),
    ]
    if "events" in bus:
        rows.append(
            ("holds", f"{bus['events']} events, {shown_size(bus['bytes'])}, up to sequence {bus['last_sequence']}")
        )
    for name, value in rows:
        output.say(f"{name + ':':<13} {shown(value)}")
