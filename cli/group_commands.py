"""`headrace group`: groups of users. Who changes them must be an administrator."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli import output
from headrace.cli.records import AllOrLimitOption, say_records
from headrace.cli.service import JsonOption, OfHomeOption, service

app = typer.Typer(help="List groups of users, and say who is in them (administrators only).", no_args_is_help=True)

_GroupArgument = Annotated[str, typer.Argument(help="The group's name, lab for urn:headrace:group:lab, or a URN.")]
_UsersArgument = Annotated[list[str], typer.Argument(help="Names of users; URNs for those of Globus or an issuer.")]


@app.command()
def add(group: _GroupArgument, users: _UsersArgument, home: OfHomeOption = None) -> None:
    """Put users into a group. The first one makes it."""
    with service(home) as client:
        for user in users:
            client.add_to_group(group, user)
    output.say(f"In the group {group}: {', '.join(users)}.")


@app.command()
def remove(group: _GroupArgument, users: _UsersArgument, home: OfHomeOption = None) -> None:
    """Take users out of a group: what only the group opened closes to them, and their sessions there end."""
    with service(home) as client:
        for user in users:
            client.remove_from_group(group, user)
    output.say(f"No more in the group {group}: {', '.join(users)}.")


@app.command("list")
def list_groups(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List groups and their members: all for an administrator, else your own."""
    with service(home) as client:
        groups = client.list_groups()
    say_records(groups, {"GROUP": "group", "MEMBERS": "members"}, as_json=as_json, limit=limit)
