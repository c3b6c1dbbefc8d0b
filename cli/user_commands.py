"""`headrace user`: who may use this service. For administrators."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli import output
from headrace.cli.records import AllOrLimitOption, say_records
from headrace.cli.service import JsonOption, OfHomeOption, YesOption, confirmed, service

app = typer.Typer(help="Add, list and remove users (administrators only).", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[
        str,
        typer.Argument(
            help="Lower-case letters, digits, '.', '_', '@' and '-'; or the URN of a user of Globus or an issuer."
        ),
    ],
    group: Annotated[
        list[str] | None, typer.Option(help="The URN of a group, such as urn:headrace:group:lab; may be repeated.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May manage users.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="The same person as a user of this name who was removed.")
    ] = False,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Add a user. `headrace token create --user NAME` then makes a token for it."""
    with service(home) as client:
        user = client.create_user(name, groups=group or (), admin=admin, again=again)
    if as_json:
        output.say_json(user)
    else:
        output.say(f"Added {user['name']} ({user['principal']}).")
        output.note(f"Make a token with: headrace token create --user {user['name']}")


@app.command("list")
def list_users(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List all users."""
    with service(home) as client:
        users = client.list_users()
    columns = {"NAME": "name", "PRINCIPAL": "principal", "GROUPS": "groups", "ADMIN": "admin", "ADDED": "created_at"}
    say_records(users, columns, as_json=as_json, limit=limit)


@app.command()
def remove(name: Annotated[str, typer.Argument()], yes: YesOption = False, home: OfHomeOption = None) -> None:
    """Remove a user: tokens, endpoints and subscriptions end, and queued tasks are cancelled. Functions stay."""
    confirmed(f"Remove the user {name}, with all tokens, endpoints, subscriptions and queued tasks?", yes=yes)
    with service(home) as client:
        client.delete_user(name)
    output.say(f"Removed {name}.")
