"""`headrace hook`: addresses at which other systems announce what happens."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.records import AllOrLimitOption, say_records
from headrace.cli.service import JsonOption, OfHomeOption, YesOption, confirmed, service
from headrace.cli.values import document_of, given, read_text

app = typer.Typer(help="Create, list and delete webhooks, and change their secrets.", no_args_is_help=True)


class Kind(StrEnum):
    """Who sends, and so how it is signed."""

    GITHUB = "github"
    GENERIC = "generic"
    CLOUDEVENTS = "cloudevents"


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="What people call it.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Who sends, and so how it is signed.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="The type of the events; may be a template.")] = None,
    source: Annotated[str | None, typer.Option(help="The source of the events; may be a template.")] = None,
    subject: Annotated[
        str | None, typer.Option(help='The subject of the events, such as "{{ event.data.ref }}".')
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="Who may ask, in the handshake of CloudEvents, to be let send; repeatable.")
    ] = None,
    bus: Annotated[str | None, typer.Option(help="Where the events are published; by default `default`.")] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="A file with the secret that the sender gave; by default one is made.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A whole webhook as JSON or YAML; options replace what it says.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Make a webhook. Its secret is shown this once."""
    document = document_of(file, "a webhook", "kind, name, type")
    document |= given(name=name, bus=bus, kind=kind and kind.value, type=type_, source=source, subject=subject)
    if origin:
        document["origins"] = origin
    if secret_file is not None:
        document["secret"] = _secret(secret_file)
    if "kind" not in document:
        raise CommandError("say who sends: --kind github, generic or cloudevents")
    with service(home) as client:
        _say(client.create_hook(document), as_json=as_json)


@app.command("list")
def list_hooks(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List your webhooks, without their secrets."""
    with service(home) as client:
        hooks = client.list_hooks()
    columns = {"ID": "hook_id", "NAME": "name", "KIND": "kind", "URL": "url", "CREATED": "created_at"}
    say_records(hooks, columns, as_json=as_json, limit=limit)


@app.command("rotate-secret")
def rotate_secret(
    hook_id: Annotated[UUID, typer.Argument()],
    secret_file: Annotated[
        Path | None, typer.Option(help="A file with the secret that the sender gave; by default one is made.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Give a webhook another secret, which is shown this once. The one before is worth nothing from then on."""
    secret = None if secret_file is None else _secret(secret_file)
    with service(home) as client:
        _say(client.rotate_hook_secret(hook_id, secret), as_json=as_json)


@app.command()
def delete(hook_id: Annotated[UUID, typer.Argument()], yes: YesOption = False, home: OfHomeOption = None) -> None:
    """Delete a webhook of yours: what is sent to its address is refused."""
    confirmed(f"Delete the webhook {hook_id}?", yes=yes)
    with service(home) as client:
        client.delete_hook(hook_id)
    output.say(f"Deleted {hook_id}.")


def _say(hook: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.say_json(hook)
        return
    output.note(f"Webhook {hook['hook_id']} at {hook['url']}; its secret, shown only now:")
    output.say(str(hook["secret"]))


def _secret(path: Path) -> str:
    return read_text(path).strip()
