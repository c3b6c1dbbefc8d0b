"""`headrace subscription`: events that run functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.service import (
    JsonOption,
    OfHomeOption,
    YesOption,
    confirmed,
    json_option,
    read_document,
    service,
    shown,
)

app = typer.Typer(help="Create, list and delete subscriptions.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="What people call it.")] = None,
    function: Annotated[UUID | None, typer.Option(help="The id of the function to run.")] = None,
    endpoint: Annotated[UUID | None, typer.Option(help="The id of the endpoint that runs it.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Events of exactly this type.")] = None,
    source: Annotated[str | None, typer.Option(help="Events of exactly this source.")] = None,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help='Any filter as JSON, such as {"prefix": {"type": "org."}}; @FILE for a file.'),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            help='Arguments as JSON with templates over `event`, such as {"args": ["{{ event.data.max }}"]}; @FILE'
            " for a file. By default the whole event is the one argument.",
        ),
    ] = None,
    max_attempts: Annotated[int | None, typer.Option(min=1, help="How often a failing delivery is tried.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A whole subscription as JSON or YAML; options replace what it says.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Let every event that matches a filter run a function."""
    document = _document(file)
    given = {"name": name, "function_id": function and str(function), "endpoint_id": endpoint and str(endpoint)}
    document.update({key: value for key, value in given.items() if value is not None})
    if input_ is not None:
        document["input"] = json_option(input_, "--input")
    wanted = _filter(type_, source, json_option(filter_, "--filter"))
    if wanted is not None:
        document["filter"] = wanted
    if max_attempts is not None:
        document["retry"] = {**document.get("retry", {}), "max_attempts": max_attempts}
    with service(home) as client:
        created = client.create_subscription(document)
    if as_json:
        output.say_json(created)
    else:
        output.say(str(created["subscription_id"]))


@app.command("list")
def list_subscriptions(as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List your subscriptions."""
    with service(home) as client:
        subscriptions = client.list_subscriptions()
    if as_json:
        output.say_json(subscriptions)
        return
    keys = ("subscription_id", "name", "filter", "function_id", "endpoint_id")
    output.say_table(
        ["ID", "NAME", "FILTER", "FUNCTION", "ENDPOINT"],
        [[shown(subscription.get(key)) for key in keys] for subscription in subscriptions],
    )


@app.command()
def delete(
    subscription_id: Annotated[UUID, typer.Argument()], yes: YesOption = False, home: OfHomeOption = None
) -> None:
    """Delete a subscription of yours."""
    confirmed(f"Delete the subscription {subscription_id}?", yes=yes)
    with service(home) as client:
        client.delete_subscription(subscription_id)
    output.say(f"Deleted {subscription_id}.")


def _document(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    document = read_document(file)
    if not isinstance(document, dict):
        raise CommandError(f"{file} does not hold a subscription: expected an object with name, filter, function_id …")
    return document


def _filter(type_: str | None, source: str | None, other: Any) -> Any:
    exact = {key: value for key, value in (("type", type_), ("source", source)) if value is not None}
    if exact and other is not None:
        return {"all": [{"exact": exact}, other]}
    return {"exact": exact} if exact else other
